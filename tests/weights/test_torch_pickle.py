"""State dicts of `torch.save`, read and written without torch: the same values as torch has."""

import pickle
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError
from no_time_to_train.weights.formats import writer
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import FileRange
from no_time_to_train.weights.formats.torch_pickle import read_structure
from no_time_to_train.weights.formats.writer import write_pickle
from no_time_to_train.weights.load import as_tensor
from tests.weights.stored import read_tensors, stored

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64),
)
BASE = torch.arange(48.0).reshape(4, 3, 4)
TENSORS: dict[str, Tensor] = {
    "whole": BASE,
    "tied": BASE,
    "row": BASE[2],
    "strided": BASE[:, ::2, 1:],
    "transposed": BASE.transpose(0, 2),
    "scalar": BASE[3, 2, 1],
    "empty": torch.zeros(0, 3),
    "one by one": BASE[1:2, 1:2, 1:2],
    "parameter": nn.Parameter(BASE[0].clone()),
    "negated": torch._neg_view(BASE[1]),
}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name], tensor.detach()), name


@pytest.mark.parametrize("zipped", [True, False])
def test_views_and_parameters(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    same(read_tensors(tmp_path / "a.pth"), TENSORS)
    held = {name: tensor.pieces[0] for name, tensor in open_weights(tmp_path / "a.pth").tensors.items()}
    computed = {name for name, piece in held.items() if not isinstance(piece, FileRange)}
    assert computed == {"strided", "transposed", "negated"}  # the others are copied from the file


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype(tmp_path: Path, zipped: bool) -> None:
    tensors = {str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in DTYPES}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    for name, tensor in open_weights(tmp_path / "a.pth").tensors.items():
        found = as_tensor(tensor)
        assert found.dtype == tensors[name].dtype
        assert torch.equal(found.view(torch.uint8), tensors[name].view(torch.uint8)), name


def test_what_a_training_keeps_next_to_its_tensors(tmp_path: Path) -> None:
    """Whatever torch.load(weights_only=True) takes is passed over; nothing of it is built."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.9))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": OrderedDict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "odd": [{1, 2}, 1j, b"x", bytearray(b"y"), Counter("ab"), torch.Size([1]), torch.device("cpu"), torch.float16],
        ("a", "tuple"): {2.5: None, True: [[]]},
    }
    torch.save(content, tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=True)
    same(read_tensors(tmp_path / "a.pth"), model.state_dict())
    assert read_structure(tmp_path / "a.pth")["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.9)


def corrupted(content: Any, folder: Path, change: tuple[bytes, bytes]) -> Path:
    """Save something and change the pickle in it, with checksums that fit."""
    torch.save(content, folder / "a.pth")
    with zipfile.ZipFile(folder / "a.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        for name, part in parts.items():
            assert change[0] in part or not name.endswith("data.pkl")
            archive.writestr(name, part.replace(*change) if name.endswith("data.pkl") else part)
    return folder / "a.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The offset, the first side, the count of the storage.
        ((b"K\x00K\x02K\x03\x86", b"K\x01K\x02K\x03\x86"), "is not within its storage"),
        ((b"K\x00K\x02K\x03\x86", b"K\x00K\x07K\x03\x86"), "has 84 bytes by its shape .* holds 24"),
        ((b"K\x00K\x02K\x03\x86", b"K\x00NK\x03\x86"), "the shape of a is damaged"),
        ((b"K\x03K\x01\x86", b"K\x04K\x01\x86"), "is not within its storage"),
        ((b"K\x06t", b"K\x05t"), "has 24 bytes by its shape .* holds 20"),
        ((b"FloatStorage", b"WhatStorage\x00"), "asks for more than tensors"),
    ],
)
def test_tensors_beyond_their_bytes(change: tuple[bytes, bytes], message: str, tmp_path: Path) -> None:
    path = corrupted({"a": torch.ones(2, 3)}, tmp_path, change)
    with pytest.raises(WeightsFormatError, match=message):
        open_weights(path)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(WeightsFormatError, match=r"record a/data\.pkl is compressed or encrypted"):
        open_weights(tmp_path / "b.pth")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/b.txt", "text")
    with pytest.raises(WeightsFormatError, match=r"it is an archive without data\.pkl"):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [nn.Linear(1, 1), {"a": np.float64(1)}, {"a": Path("x")}])
def test_other_classes_are_refused_by_name(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsafeWeightsError, match=r"GLOBAL (torch\.nn\.modules|numpy|pathlib)"):
        open_weights(tmp_path / "a.pth")


def test_torch_opens_what_is_written(tmp_path: Path) -> None:
    """Also memory-mapped, where each tensor has to begin at a multiple of 64 bytes."""
    tensors = {
        name: torch.randn(shape).to(dtype)
        for name, shape, dtype in (
            ("é", (3, 5), torch.float32),
            ("b.weight", (7,), torch.bfloat16),
            ("c", (), torch.float16),
            ("d", (2, 1, 3), torch.float64),
        )
    }
    write_pickle(tmp_path / "a.pth", stored(tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mmap in (False, True):
            same(torch.load(tmp_path / "a.pth", weights_only=True, mmap=mmap), tensors)
    same(read_tensors(tmp_path / "a.pth"), tensors)
    places = [tensor.pieces[0] for tensor in open_weights(tmp_path / "a.pth").tensors.values()]
    assert all(isinstance(place, FileRange) and place.offset % 64 == 0 for place in places)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/data.pkl")[:1] == pickle.PROTO
    first = (tmp_path / "a.pth").read_bytes()
    write_pickle(tmp_path / "b.pth", stored(tensors))
    assert (tmp_path / "b.pth").read_bytes() == first


def test_records_of_a_gigabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes stand in 64 bits; here for small ones."""
    monkeypatch.setattr(writer, "_LARGE_RECORD", 8)
    tensors = {"a": torch.arange(9.0), "b": torch.ones(1)}
    write_pickle(tmp_path / "a.pth", stored(tensors))
    same(torch.load(tmp_path / "a.pth", weights_only=True, mmap=True), tensors)
    same(read_tensors(tmp_path / "a.pth"), tensors)
