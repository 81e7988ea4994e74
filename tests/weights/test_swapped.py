"""Weights that are written again while they are read: nothing is made of two files."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import no_time_to_train.export.onnx as export_module
import no_time_to_train.weights.conversion as conversion_module
import no_time_to_train.weights.inspect as inspect_module
from no_time_to_train.errors import WeightsFormatError, WeightsNotFoundError
from no_time_to_train.export import export_onnx
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.conversion import Target, convert_weights
from tests.weights.conftest import WEIGHTS


def swap(folder: Path) -> None:
    """Put a file of the same tensors at other places where the weights are."""
    save_file(load_file(folder / WEIGHTS), folder / "new", metadata={"longer": "header" * 100})
    (folder / "new").rename(folder / WEIGHTS)


@pytest.fixture
def source(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "source"))


def after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Any) -> None:
    """Do something when a function of a module has returned, as another process may at that moment."""
    original = getattr(module, name)

    def then(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        act()
        return result

    monkeypatch.setattr(module, name, then)


@pytest.mark.parametrize(("target", "name"), [("hf", "folder"), ("meta", "file.pth"), ("equinox", "file.eqx")])
def test_convert(target: Target, name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are found by the header, and copied when it has been read."""
    after(monkeypatch, conversion_module, "read_source", lambda: swap(source))
    with pytest.raises(WeightsFormatError, match="changed while it was read"):
        convert_weights(source, tmp_path / "out" / name, target)
    assert not list(tmp_path.glob("out/*"))


def test_convert_from_what_is_removed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after(monkeypatch, conversion_module, "read_source", (source / WEIGHTS).unlink)
    with pytest.raises((WeightsFormatError, WeightsNotFoundError), match="removed"):
        convert_weights(source, tmp_path / "out.pth", "meta")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_export(verify: bool, in_place: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is bound to places in the file, and the file is hashed at the end."""
    after(monkeypatch, export_module, "trace_encoder", lambda: swap(source))
    with pytest.raises(WeightsFormatError, match="changed while it was read"):
        export_onnx(source, output=None if in_place else tmp_path / "out", verify=verify)
    assert not (tmp_path / "out").exists()
    assert not (source / "model.onnx").exists()


def test_inspect(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is to be of the tensors that are told."""

    def found(raw: Mapping[str, Any], path: Path) -> None:
        swap(source)

    monkeypatch.setattr(inspect_module, "_as_sam2", found)
    with pytest.raises(WeightsFormatError, match="changed while it was read"):
        inspect_weights(source)


def test_the_same_file_with_another_time_of_reading_is_unchanged(source: Path, tmp_path: Path) -> None:
    state = (source / WEIGHTS).stat()
    os.utime(source / WEIGHTS, ns=(state.st_atime_ns + 1, state.st_mtime_ns))
    convert_weights(source, tmp_path / "out.pth", "meta")
