import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.files import read_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int16)}


def same(got: dict[str, Tensor]) -> bool:
    return got.keys() == TENSORS.keys() and all(
        torch.equal(got[name], value) and got[name].dtype == value.dtype for name, value in TENSORS.items()
    )


def test_safetensors_file_and_folder(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert same(read_tensors(tmp_path / "model.safetensors"))
    assert same(read_tensors(tmp_path))


def write_shards(folder: Path, **weight_map: str) -> None:
    for name in ("a", "b"):
        save_file({name: TENSORS[name]}, folder / f"{name}.safetensors")
    content = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors", **weight_map}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_sharded_folder(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert same(read_tensors(tmp_path))


def test_broken_indices(tmp_path: Path) -> None:
    write_shards(tmp_path, c="a.safetensors")
    with pytest.raises(WeightsFormatError, match="1 tensors that no shard holds, first c"):
        read_tensors(tmp_path)
    write_shards(tmp_path, c="../a.safetensors")
    with pytest.raises(UnsafeWeightsError, match="outside its folder"):
        read_tensors(tmp_path)
    write_shards(tmp_path, c="c.safetensors")
    with pytest.raises(WeightsNotFoundError, match="no weights at"):
        read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(WeightsFormatError, match="no safetensors index"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_state_dicts(tmp_path: Path, key: str | None, zipped: bool) -> None:
    content = TENSORS if key is None else {key: TENSORS, "epoch": 3}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_tensors(tmp_path / "x.pth"))


class Plain:
    """A class that is merely not among those that torch admits."""


class Evil:
    """What unpickles into a shell command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def test_a_pickle_that_wants_more_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": TENSORS["a"], "b": Evil()}, "evil.pth")
    with pytest.raises(UnsafeWeightsError, match=r"asks for more than tensors.*posix.system"):
        read_tensors(Path("evil.pth"))
    assert not Path("ran").exists()
    torch.save({"a": TENSORS["a"], "b": Plain()}, "plain.pth")
    with pytest.raises(UnsafeWeightsError, match=r"asks for more than tensors.*Plain"):
        read_tensors(Path("plain.pth"))


@pytest.mark.parametrize("keep", [0.2, 0.9])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsFormatError, match="fetch the file again"):
        read_tensors(path)


def test_what_is_not_there_or_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="check the path"):
        read_tensors(tmp_path / "nothing.pth")
    with pytest.raises(WeightsNotFoundError, match="it holds nothing"):
        read_tensors(tmp_path)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsNotFoundError, match="is empty"):
        read_tensors(tmp_path / "empty.pth")
    (tmp_path / "notes.txt").write_text("weights")
    with pytest.raises(WeightsFormatError, match=r"ending '.txt'"):
        read_tensors(tmp_path / "notes.txt")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsFormatError, match=r"no (whole )?PyTorch weights file"):
        read_tensors(tmp_path / "text.pth")
    for content in ([1, 2], {"epoch": 3}, {}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsFormatError, match="holds no state dict"):
            read_tensors(tmp_path / "other.pth")
