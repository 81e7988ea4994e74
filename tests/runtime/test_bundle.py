"""Bundles: what is read, and what is refused."""

import shutil
from pathlib import Path

import pytest

from no_time_to_train import Segmenter
from no_time_to_train.errors import ConfigError, DataNotFoundError, WeightsNotFoundError
from no_time_to_train.runtime.bundle import SETTINGS_FILE, read_bundle, shipped_bundle
from tests.runtime.quickstart import FOLDER


def test_the_shipped_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # not found by the working directory
    bundle = read_bundle("quickstart")
    assert bundle.folder.resolve() == FOLDER
    assert bundle.memory is None
    assert Path(bundle.settings["encoder_cfg"]["name"]) == bundle.folder / "encoder"
    assert bundle.settings["encoder_cfg"]["img_size"] == 384
    assert shipped_bundle("nothing") is None
    assert shipped_bundle("../quickstart") is None


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no pipeline\.yaml"):
        read_bundle(tmp_path)
    with pytest.raises(DataNotFoundError, match="no bundle in nothing"):
        read_bundle("nothing")
    (tmp_path / SETTINGS_FILE).write_text("format: another 2\n")
    with pytest.raises(ConfigError, match="format 'another 2'"):
        read_bundle(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text("format: no_time_to_train bundle 1\n")
    with pytest.raises(ConfigError, match=r"pipeline\.yaml: the configuration has no model"):
        read_bundle(tmp_path)


def test_a_part_is_missing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "bundle")
    (tmp_path / "bundle" / "sam2" / "vision_encoder.onnx").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"no vision_encoder.onnx of a SAM2"):
        Segmenter.from_bundle(tmp_path / "bundle")
