"""YAMLs and weights are found from anywhere: a clone, an installed package, the user's own folder."""

from pathlib import Path

import pytest

from no_time_to_train.configs import shipped
from no_time_to_train.configs.encoders import ENCODER_CONFIGS, weights_at_hand
from no_time_to_train.configs.shipped import find_settings, find_weights, weights_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "given",
    ["quickstart", "quickstart.yaml", "pl_configs/quickstart.yaml", "no_time_to_train/pl_configs/quickstart.yaml"],
)
def test_a_shipped_yaml_is_found_by_name(given: str) -> None:
    assert find_settings(given) == ROOT / "pl_configs" / "quickstart.yaml"


def test_presets_have_a_folder() -> None:
    assert find_settings("presets/fast") == ROOT / "pl_configs" / "presets" / "fast.yaml"


@pytest.mark.parametrize("given", ["../quickstart", "nowhere", "", "no_time_to_train/pl_configs"])
def test_what_is_not_shipped_stays_as_it_was_given(given: str) -> None:
    assert find_settings(given) == Path(given)


def test_a_file_of_the_users_comes_first(tmp_path: Path) -> None:
    (tmp_path / "quickstart").write_text("")
    assert find_settings("quickstart") == Path("quickstart")


def test_an_installed_package_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "pl_configs").mkdir(parents=True)
    (tmp_path / "site" / "pl_configs" / "own.yaml").write_text("")
    monkeypatch.setattr(shipped, "_SETTINGS", (tmp_path / "site" / "pl_configs",))
    assert find_settings("own") == tmp_path / "site" / "pl_configs" / "own.yaml"


def test_weights_are_in_the_working_directory_or_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTT_HOME", str(tmp_path / "mine"))
    assert weights_folder() == tmp_path / "mine" / "checkpoints"
    monkeypatch.delenv("NTT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folder().name == "checkpoints"
    assert weights_folder().is_relative_to(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert weights_folder() == Path("checkpoints")


def test_weights_of_the_users_folder_are_found_by_the_path_in_a_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTT_HOME", str(tmp_path / "mine"))
    kept = tmp_path / "mine" / "checkpoints" / "sam2_hiera_tiny.pt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    assert find_weights("checkpoints/sam2_hiera_tiny.pt") == kept
    assert find_weights("elsewhere/sam2_hiera_tiny.pt") == Path("elsewhere/sam2_hiera_tiny.pt")
    folder = tmp_path / "mine" / "checkpoints" / "dinov3_small"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    assert weights_at_hand(ENCODER_CONFIGS["dinov3_small"]) == folder


def test_the_shipped_models_are_found_from_anywhere() -> None:
    assert find_weights("checkpoints/quickstart/sam2") == ROOT / "checkpoints" / "quickstart" / "sam2"
    assert weights_at_hand(ENCODER_CONFIGS["dinov3_quickstart"]) == ROOT / "checkpoints" / "quickstart" / "encoder"
