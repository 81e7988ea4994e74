"""Arrays of Equinox files by hand: their headers, their order, and the names that Equimo's have."""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.formats.equinox import FORMAT, array_header, header_line, read_eqx
from no_time_to_train.weights.formats.stored_tensor import WeightsFile

DIM, HIDDEN, PATCH = 8, 20, 4


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an array as NumPy saves it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def vit(
    *, registers: int = 3, mask: bool = True, blocks: int = 2, bias: bool = True, gated: bool = False, norms: int = 2
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of a ViT of Equimo's in its order; what belongs to dropout has no name."""
    arrays: list[tuple[str, tuple[int, ...]]] = [
        ("patch_embed.proj.weight", (DIM, 3, PATCH, PATCH)),
        ("patch_embed.proj.bias", (DIM, 1, 1)),
        ("local_pos_embed.periods", (2,)),
        ("cls_token", (1, DIM)),
    ]
    if registers:
        arrays.append(("reg_tokens", (registers, DIM)))
    if mask:
        arrays.append(("mask_token", (1, DIM)))
    for index in range(blocks):
        own: list[tuple[str, tuple[int, ...]]] = [
            *((name, (DIM,)) for name in ("prenorm.weight", "prenorm.bias", "norm.weight", "norm.bias")),
            *((name, (DIM,)) for name in ("ls1.gamma", "ls2.gamma")),
            ("attn.qkv.weight", (3 * DIM, DIM)),
        ]
        if bias:
            own.append(("attn.qkv.bias", (3 * DIM,)))
        own += [("attn.proj.weight", (DIM, DIM)), ("attn.proj.bias", (DIM,))]
        for name in ("w1", "w2") if gated else ("fc1",):
            own += [(f"mlp.{name}.weight", (HIDDEN, DIM)), (f"mlp.{name}.bias", (HIDDEN,))]
        last = "w3" if gated else "fc2"
        own += [(f"mlp.{last}.weight", (DIM, HIDDEN)), (f"mlp.{last}.bias", (DIM,))]
        arrays += [(f"blocks.{index}.{name}", shape) for name, shape in own]
        arrays.append(("", ()))
    final = ("norm.weight", "norm.bias", "local_cls_norm.weight", "local_cls_norm.bias")
    return arrays + [(name, (DIM,)) for name in final[:norms]]


def equimo_folder(folder: Path, arrays: Sequence[tuple[str, tuple[int, ...]]], *, mask: bool = True) -> Path:
    """Write arrays as Equimo does; each holds its place in the file."""
    content = [saved(np.full(shape, index, np.float32)) for index, (_, shape) in enumerate(arrays)]
    (folder / "weights.eqx").write_bytes(b"".join(content))
    (folder / "metadata.json").write_text(json.dumps({"model_config": {"use_mask_token": mask}}))
    return folder / "weights.eqx"


def own_file(folder: Path, header: Mapping[str, Any], *arrays: bytes) -> Path:
    """Write a file of this package."""
    path = folder / "encoder.eqx"
    path.write_bytes(json.dumps({"format": FORMAT, **header}).encode() + b"\n" + b"".join(arrays))
    return path


def with_header(text: str, content: bytes = b"", version: int = 1) -> bytes:
    """Return an array with this header."""
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(text))
        + text.encode()
        + content
    )


def read_array(folder: Path, array: bytes) -> WeightsFile:
    return read_eqx(own_file(folder, {"leaves": ["a"]}, array))


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"mask": False},
        {"registers": 0},
        {"registers": 1},
        {"bias": False},
        {"gated": True},
        {"gated": True, "bias": False, "norms": 4},
        {"norms": 4},
        {"blocks": 1},
    ],
)
def test_arrays_are_named_by_their_order(kind: dict[str, Any], tmp_path: Path) -> None:
    arrays = vit(**kind)
    tensors = read_eqx(equimo_folder(tmp_path, arrays, mask=kind.get("mask", True))).tensors
    expected = {name: (index, shape) for index, (name, shape) in enumerate(arrays) if name}
    assert list(tensors) == list(expected)
    for name, (index, shape) in expected.items():
        assert tensors[name].shape == shape
        assert (tensors[name].array() == index).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (DIM, 4, PATCH, PATCH)),
        ("patch_embed.proj.weight", (DIM, 3, PATCH)),
        ("patch_embed.proj.bias", (DIM,)),
        ("local_pos_embed.periods", (2, 1)),
        ("cls_token", (2, DIM)),
        ("reg_tokens", (3, DIM + 1)),
        ("mask_token", (2, DIM)),
        ("blocks.1.ls2.gamma", (DIM + 1,)),
        ("blocks.0.attn.qkv.weight", (2 * DIM, DIM)),
        ("blocks.0.attn.proj.weight", (DIM, DIM + 1)),
        ("blocks.1.mlp.fc1.bias", (HIDDEN + 1,)),
        ("blocks.1.mlp.fc2.weight", (DIM, HIDDEN + 1)),
        ("norm.bias", (DIM + 1,)),
    ],
)
def test_arrays_of_other_shapes_are_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = [(known, shape if known == name else own) for known, own in vit()]
    with pytest.raises(WeightsFormatError, match="not a DINOv3 ViT of Equimo's"):
        read_eqx(equimo_folder(tmp_path, arrays))


@pytest.mark.parametrize("left", [1, 3, 11, -1, -2, -5])
def test_arrays_that_end_early_are_refused(left: int, tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match="not a DINOv3 ViT of Equimo's"):
        read_eqx(equimo_folder(tmp_path, vit()[:left]))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(3, dtype=np.float16),
        np.arange(2, dtype=np.float64),
        np.array([1, -1], np.int64),
        np.array([[1], [2]], np.int32),
        np.array([True, False]),
        np.array(1.5, np.float32),
        np.empty((0, 5), np.float32),
    ],
)
def test_every_array_comes_back(version: tuple[int, int], array: np.ndarray, tmp_path: Path) -> None:
    path = own_file(tmp_path, {"leaves": ["a", "b"]}, saved(array, version), saved(np.array([7.0, 8.0], np.float32)))
    tensors = read_eqx(path).tensors
    assert tensors["a"].dtype == array.dtype
    assert tensors["a"].shape == array.shape
    assert np.array_equal(tensors["a"].array(), array)
    assert tensors["b"].array().tolist() == [7.0, 8.0]


def test_headers_are_numpys() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert array_header(array.dtype, [2, 3]) + array.tobytes() == saved(array)
    # NumPy knows no bfloat16.
    assert b"'descr': '<V2'" in array_header(np.dtype(ml_dtypes.bfloat16), [2])


def test_numbers_of_16_bits_without_a_name_in_numpy(tmp_path: Path) -> None:
    values = np.array([1.0, -2.0], ml_dtypes.bfloat16)
    tensor = read_array(tmp_path, array_header(values.dtype, [2]) + values.tobytes()).tensors["a"]
    assert tensor.dtype == values.dtype
    assert np.array_equal(tensor.array(), values)


@pytest.mark.parametrize("length", range(60, 70))
def test_arrays_begin_at_a_multiple_of_64_bytes(length: int) -> None:
    line = header_line({"x": "x" * length}, ["a", "b"])
    assert len(line) % 64 == 0
    assert len(line.rstrip(b" \n")) > len(line) - 65
    assert json.loads(line) == {"format": FORMAT, "version": 1, "x": "x" * length, "leaves": ["a", "b"]}


def _described(shape: str = "(2,)", kind: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}}}\n"


def test_what_is_read_is_what_the_damaged_ones_are_made_of(tmp_path: Path) -> None:
    assert read_array(tmp_path, with_header(_described(), bytes(8))).tensors["a"].shape == (2,)
    assert read_array(tmp_path, with_header(_described(), bytes(8), version=2)).tensors["a"].shape == (2,)
    # Of one axis both orders are the same, and a longest header is read.
    assert read_array(tmp_path, with_header(_described(order="True"), bytes(8))).tensors["a"].shape == (2,)
    padded = _described().rstrip().ljust(10_000)
    assert read_array(tmp_path, with_header(padded, bytes(8))).tensors["a"].shape == (2,)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (with_header(_described(), bytes(7)), r"ends within its array of \(2,\)"),
        (with_header(_described(), bytes(9)), "something else than NumPy arrays"),
        (with_header(_described(), bytes(8), version=4), "something else than NumPy arrays"),
        (b"\x93NUMPX" + with_header(_described(), bytes(8))[6:], "something else than NumPy arrays"),
        (with_header(_described().rstrip().ljust(10_001), bytes(8)), "damaged array header"),
        (with_header(_described(shape="(2"), bytes(8)), "damaged array header"),
        (with_header(_described(shape="(-1,)"), bytes(8)), "damaged array header"),
        (with_header(_described(shape="(2.0,)"), bytes(8)), "damaged array header"),
        (with_header(_described(shape="(True,)"), bytes(4)), "damaged array header"),
        (with_header(_described(shape=f"(0, {2**32 + 1})")), "damaged array header"),
        (with_header(_described(shape=f"(0, {2**25}, {2**24})")), "damaged array header"),
        (with_header(_described(kind="[('x', '<f4')]"), bytes(8)), "damaged array header"),
        (with_header("{'descr': '<f4', 'shape': (2,)}", bytes(8)), "damaged array header"),
        (with_header(_described(kind="'\\x3cf4'"), bytes(8)), "damaged array header"),
        (with_header(_described(kind="'>f4'"), bytes(8)), "of the kind '>f4'"),
        (with_header(_described(kind="'|O'"), bytes(8)), "of the kind '|O'"),
        (with_header(_described(shape="(1, 2)", order="True"), bytes(8)), "of the kind '<f4'"),
    ],
)
def test_damaged_arrays_are_refused(array: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match=message.replace("|O", r"\|O")):
        read_array(tmp_path, array)


def test_the_largest_array_without_numbers(tmp_path: Path) -> None:
    shape = (0, 2**32, 2**16)
    assert read_array(tmp_path, with_header(_described(shape=str(shape)))).tensors["a"].shape == shape


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"leaves": ["a"], "format": "other"}, "not an Equinox file of this package"),
        ({"leaves": "a"}, "not an Equinox file of this package"),
        ({"leaves": ["a"], "config": []}, "not an Equinox file of this package"),
        ({"leaves": ["a"], "preprocessor": 1}, "not an Equinox file of this package"),
        ({}, "not an Equinox file of this package"),
        ({"leaves": ["a", "a"]}, "names two of its arrays alike"),
        ({"leaves": ["a", "b"]}, "holds 1 arrays, expected 2"),
        ({"leaves": []}, "holds 1 arrays, expected 0"),
    ],
)
def test_headers_that_do_not_fit(header: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match=message):
        read_eqx(own_file(tmp_path, header, saved(np.zeros(2, np.float32))))


def test_arrays_without_metadata(tmp_path: Path) -> None:
    path = equimo_folder(tmp_path, vit())
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(WeightsFormatError, match=r"there is no metadata\.json beside it"):
        read_eqx(path)
