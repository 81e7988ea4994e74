import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.serialization import set_crc32_options

from no_time_to_train.cli import main
from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.formats.reader import open_weights
from tests.weights.stored import read_tensors

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
    write_shards(tmp_path, c=str(tmp_path / "a.safetensors"))
    with pytest.raises(UnsafeWeightsError, match="outside its folder"):
        read_tensors(tmp_path)
    write_shards(tmp_path, c="c.safetensors")
    with pytest.raises(WeightsNotFoundError, match="no weights at"):
        read_tensors(tmp_path)
    whole = json.dumps({"weight_map": {"a": "a.safetensors"}})
    for content in ("[]", "{}", whole[:-4], "\0"):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(WeightsFormatError, match="not a safetensors index"):
            read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsFormatError, match="not a safetensors index"):
        read_tensors(tmp_path)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "b.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsFormatError, match=r"b\.safetensors is not a complete safetensors file"):
        read_tensors(tmp_path)


def test_a_folder_with_a_pickle(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert same(read_tensors(tmp_path))
    # Where there are both, the one that can run nothing.
    save_file({"c": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_tensors(tmp_path).keys() == {"c"}


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_endings_of_pickles(tmp_path: Path, suffix: str) -> None:
    torch.save(TENSORS, tmp_path / f"x{suffix}")
    assert same(read_tensors(tmp_path / f"x{suffix}"))


@pytest.mark.parametrize("key", [None, "model", "state_dict", "teacher"])
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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_more_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": TENSORS["a"], "b": Evil()}, "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeWeightsError, match=r"asks for more than tensors.*posix.system"):
        read_tensors(Path("evil.pth"))
    assert not Path("ran").exists()
    # The trap works: whoever does load the file runs the command.
    torch.load("evil.pth", weights_only=False)
    assert Path("ran").exists()
    torch.save({"a": TENSORS["a"], "b": Plain()}, "plain.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeWeightsError, match=r"asks for more than tensors.*Plain"):
        read_tensors(Path("plain.pth"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_truncated_anywhere(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    content = path.read_bytes()
    for length in (*range(1, len(content), 13), len(content) - 1):
        path.write_bytes(content[:length])
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
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(WeightsNotFoundError, match="is empty"):
        read_tensors(tmp_path / "empty.safetensors")
    (tmp_path / "notes.txt").write_text("weights")
    with pytest.raises(WeightsFormatError, match=r"ending '.txt'"):
        read_tensors(tmp_path / "notes.txt")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsFormatError, match=r"not a (complete )?PyTorch weights file"):
        read_tensors(tmp_path / "text.pth")
    for content in ([1, 2], {"epoch": 3}, {}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsFormatError, match="holds no state dict"):
            read_tensors(tmp_path / "other.pth")


@pytest.mark.parametrize("content", ['["a"]', '{"a": 3}', "null", '"a"', "{}"])
def test_index_whose_map_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {content}}}')
    with pytest.raises(WeightsFormatError, match="not a safetensors index"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("shard", ["..", ".", ""])
def test_shard_that_is_a_folder(tmp_path: Path, shard: str) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "in" / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{shard}"}}}}')
    with pytest.raises(UnsafeWeightsError):
        read_tensors(tmp_path / "in")


def test_legacy_pickle_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(60.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsFormatError):
            read_tensors(path)


def test_a_flipped_bit_is_told_by_every_reader_of_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pth"
    torch.save(dict.fromkeys("ab", torch.ones(1000)), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = rf"{path} is damaged: Bad CRC-32 for file 'a/data/0' \(fetch"
    for read in (read_tensors, open_weights):
        with pytest.raises(WeightsFormatError, match=message):
            read(path)
    assert main(["inspect", str(path)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert open_weights(path, verify=False).tensors["a"].shape == (1000,)


def test_a_pickle_without_checksums_is_read(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "a.pth")
    finally:
        set_crc32_options(True)
    assert same(read_tensors(tmp_path / "a.pth"))
    assert set(open_weights(tmp_path / "a.pth").tensors) == set(TENSORS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    torch.save({"model": TENSORS, "epoch": 3}, tmp_path / "a.pth", pickle_protocol=protocol)
    assert same(read_tensors(tmp_path / "a.pth"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("verify", [False, True])
def test_tensors_larger_than_the_file_are_refused(tmp_path: Path, verify: bool) -> None:
    """A stride of 0 makes a terabyte of one number, in a file of a kilobyte."""
    huge = torch.zeros(1).as_strided((250_000_000_000,), (0,))
    torch.save({**TENSORS, "huge": huge}, tmp_path / "huge.pth")
    with pytest.raises(WeightsFormatError, match=r"huge in .* has 1,000,000,000,000 bytes .* holds 4 .*contiguous"):
        open_weights(tmp_path / "huge.pth", verify=verify)
    # Tied tensors, and a view of a part, have all their bytes.
    torch.save({"a": TENSORS["a"], "tied": TENSORS["a"], "part": TENSORS["a"][1]}, tmp_path / "fine.pth")
    assert len(open_weights(tmp_path / "fine.pth", verify=verify).tensors) == 3


@pytest.mark.filterwarnings("ignore:.*[qQ]uantiz")
@pytest.mark.parametrize("verify", [False, True])
def test_quantized_pickles_are_refused_in_one_line(tmp_path: Path, verify: bool) -> None:
    torch.save({"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "q.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsFormatError, match=r"quantized tensors?, expected floating point"):
            open_weights(tmp_path / "q.pth", verify=verify)
