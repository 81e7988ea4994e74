"""`dinov3-fetcher`: where it looks for the folder, and what it says of a wrong configuration."""

import json
from pathlib import Path

import pytest

from no_time_to_train.cli import fetcher_main
from no_time_to_train.weights import validate_dinov3
from no_time_to_train.weights.hub.fetch import DEFAULT_MODEL
from tests.weights.conftest import REPOSITORY
from tests.weights.hub_server import Hub


@pytest.fixture
def default_hub(hub: Hub) -> Hub:
    hub.repositories[DEFAULT_MODEL] = hub.repositories[REPOSITORY]
    hub.revisions[DEFAULT_MODEL] = "4" * 40
    return hub


def write(path: Path, settings: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return str(path)


def test_folders_are_relative_to_the_configuration(
    default_hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, object] = {
        "paths": {"dataset_root": "data", "dataset_name": "buoys", "output": "runs"},
        "train": {"dino_root": "../dino", "dino_model": REPOSITORY, "model": "unet", "lr": 0.1},
        "trainer": {"root": "x"},
    }
    config = write(tmp_path / "a" / "config.json", settings)
    assert fetcher_main(["--config", config]) == 0
    assert validate_dinov3(tmp_path / "dino", deep=True)
    capsys.readouterr()
    asked = len(default_hub.requests)
    assert fetcher_main([f"--config={config}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["was_there"] is True
    assert len(default_hub.requests) == asked


def test_without_a_folder_of_its_own_it_lies_in_the_datasets(default_hub: Hub, tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", {"paths": {"dataset_root": "data"}, "train": {"dino_model": REPOSITORY}})
    assert fetcher_main(["--config", config, "--quiet"]) == 0
    assert validate_dinov3(tmp_path / "data" / REPOSITORY.rpartition("/")[2])
    config = write(tmp_path / "config.json", {"train": {"dino_root": str(tmp_path / "x"), "dino_model": REPOSITORY}})
    assert fetcher_main(["--config", config, "--quiet"]) == 0
    assert default_hub.requests[-1].path.startswith(f"/{REPOSITORY}")
    assert validate_dinov3(tmp_path / "x")


def test_the_default_model_goes_into_a_folder_of_its_repositorys_name(
    default_hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as a test can fetch 1.2 GB: the small model that the server gives instead is refused at the end."""
    config = write(tmp_path / "config.json", {"paths": {"dataset_root": "data"}})
    assert fetcher_main(["--config", config]) == 2
    said = capsys.readouterr().err
    assert f" -> {tmp_path / 'data' / 'dinov3-vitl16-pretrain-lvd1689m'}\n" in said
    assert "expected dinov3_large" in said
    assert default_hub.requests[-1].path.startswith("/facebook/dinov3-vitl16-pretrain-lvd1689m/")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "is not valid JSON"),
        ([], "holds a list"),
        ({}, "set train.dino_root"),
        ({"train": 3}, "train in"),
        ({"train": {"dino_root": 3}}, "expected a text"),
        ({"paths": {"dataset_root": ""}}, "expected a text"),
        ({"train": {"dino_root": "x", "dino_modle": "y"}}, "train.dino_modle in"),
        ({"train": {"dino_root": "x", "dino_modle": "y"}}, "(did you mean train.dino_model? what is read: train.dino_"),
        ({"paths": {"dataset_rot": "x"}, "train": {"dino_root": "x"}}, "did you mean paths.dataset_root?"),
        ({"train": {"dino_root": "x"}, "dino_model": "y"}, "error: dino_model in"),
        ({"train": {"dino_root": "x"}, "trian": {"dino_model": "y"}}, "did you mean train.dino_model?"),
        ({"train": {"dino_root": "x", "dino_size": "b"}}, "(what is read: train.dino_root, train.dino_model, paths"),
    ],
)
def test_wrong_configurations_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: object, said: str
) -> None:
    assert fetcher_main(["--config", write(tmp_path / "config.json", settings)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetcher_main(["--config", str(tmp_path / "none.json")]) == 2
    assert "check --config" in capsys.readouterr().err
    assert fetcher_main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
