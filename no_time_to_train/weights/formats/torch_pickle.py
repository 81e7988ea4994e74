"""State dicts that `torch.save` wrote, read without torch: what their pickles name is never imported, nor called.

Source: `torch/serialization.py` and `torch/_utils.py` of torch 2.15: a zip archive with a pickle and a record for each
storage; before torch 1.6, five pickles and the storages in one stream.
"""

import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 # NumPy knows bfloat16 by its name then
import numpy as np

from no_time_to_train.errors import NoTimeToTrainError, WeightsFormatError
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN
from no_time_to_train.weights.formats.pickle_structure import Call, Name, Persistent, evaluate
from no_time_to_train.weights.formats.stored_tensor import (
    FileRange,
    FileState,
    LazyBytes,
    StoredTensor,
    WeightsFile,
    read_piece,
    state_of,
)

LIGHTNING_KEY = "pytorch-lightning_version"
_ZIP_MAGIC, _LEGACY_MAGIC = b"PK\x03\x04", 0x1950A86A20F9469CFC6C
_BIG_ENDIAN = "it was saved on a big-endian machine"
_BLOCK = 1 << 24
_STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64"},
    **{"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}


def read_torch_file(file: Path, *, verify: bool) -> WeightsFile:
    """Find the tensors of a state dict.

    Args:
        file: As `torch.save` wrote it: a state dict, plain or under the key `model`, `state_dict` or `teacher`, or a
            checkpoint of Lightning.
        verify: Compare the checksums of a zip archive, for which it is read whole.

    Raises:
        UnsafeWeightsError: It asks for more than tensors and plain containers.
        WeightsFormatError: It is damaged, or holds no state dict.
    """
    with _damage_told(file):
        loaded, ranges = _read(file, verify=verify)
        tensors = {name: _tensor(name, call, ranges, file) for name, call in _state_dict_in(loaded, file).items()}
    if isinstance(loaded, dict) and LIGHTNING_KEY in loaded:
        return WeightsFile(_trained_model_in(tensors, file), (file,), "Lightning checkpoint")
    return WeightsFile(tensors, (file,), "PyTorch pickle")


def read_structure(file: Path, *, verify: bool = False) -> Any:
    """Return what `torch.save` wrote without the tensors: containers, values, and the calls that make tensors.

    Args:
        file: As `torch.save` wrote it.
        verify: Compare the checksums of a zip archive, for which it is read whole.

    Raises:
        UnsafeWeightsError: It asks for more than tensors and plain containers.
        WeightsFormatError: It is damaged.
    """
    with _damage_told(file):
        return _read(file, verify=verify)[0]


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    try:
        yield
    except NoTimeToTrainError:
        raise
    except Exception as error:  # what a damaged pickle asks for has no limits
        said = str(error).split("\n")[0] if isinstance(error, (ValueError, zipfile.BadZipFile)) else repr(error)
        raise WeightsFormatError(
            f"{file} is not a complete PyTorch weights file: {said:.200}", remedy=FETCH_AGAIN
        ) from error


def _read(file: Path, *, verify: bool) -> tuple[Any, dict[str, FileRange]]:
    """Return the structure of a file and the place of each storage."""
    state = state_of(file)
    with file.open("rb") as stream:
        begin = stream.read(len(_ZIP_MAGIC))
    if begin != _ZIP_MAGIC:
        return _read_legacy(file, state)
    if verify:
        _check_sums(file)
    return _read_zip(file, state)


def _check_sums(file: Path) -> None:
    """Compare the checksums in a zip archive, which torch does not do. A gigabyte takes about 0.3 s.

    Raises:
        WeightsFormatError: One is wrong.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                # torch.serialization.set_crc32_options(False) writes 0 for all of them.
                if entry.CRC != 0:
                    with archive.open(entry) as record:
                        while record.read(_BLOCK):
                            pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsFormatError(f"{file} is damaged: {error}", remedy=FETCH_AGAIN) from error


def _read_zip(file: Path, state: FileState) -> tuple[Any, dict[str, FileRange]]:
    records = {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise ValueError(f"its record {entry.filename} is compressed or encrypted")
            stream.seek(entry.header_offset + 26)
            lengths = stream.read(4)
            begin = stream.tell() + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            if begin + entry.file_size > state[1]:
                raise ValueError(f"its record {entry.filename} is cut off")
            records[entry.filename.partition("/")[2]] = FileRange(file, begin, entry.file_size, state)
    if "data.pkl" not in records:
        raise ValueError("it is an archive without data.pkl")
    if "byteorder" in records and read_piece(records["byteorder"]) != b"little":
        raise ValueError(_BIG_ENDIAN)
    loaded = evaluate(io.BytesIO(read_piece(records["data.pkl"])), file)
    return loaded, {name.removeprefix("data/"): place for name, place in records.items()}


def _read_legacy(file: Path, state: FileState) -> tuple[Any, dict[str, FileRange]]:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if evaluate(content, file) != _LEGACY_MAGIC:
            raise ValueError("it does not begin as one")
        evaluate(content, file)  # the version of the format, of which there is one
        if not evaluate(content, file)["little_endian"]:
            raise ValueError(_BIG_ENDIAN)
        references: list[Persistent] = []
        loaded, keys = evaluate(content, file, references), evaluate(content, file)
        # A view's reference has the length of the whole, too.
        wholes = {key: (kind, length) for _, kind, key, _, length, *_ in (one.identity for one in references)}
        ranges = {}
        position = content.tell()
        for key in keys:
            kind, expected = wholes[key]
            length = int.from_bytes(content[position : position + 8], "little")
            place = FileRange(file, position + 8, length * _dtype_of(kind).itemsize, state)
            position = place.offset + place.length
            if length != expected or position > len(content):
                raise ValueError(f"its storage {key} is cut off")
            ranges[key] = place
    return loaded, ranges


def _dtype_of(name: Any) -> np.dtype[Any]:
    """Return the dtype of a class of storages, or of a name of torch's."""
    if not isinstance(name, Name):
        raise TypeError("a storage is of no class")
    last = name.rpartition(".")[2]
    return np.dtype(_STORAGES[last.removesuffix("Storage")] if last.endswith("Storage") else last)


def _state_dict_in(loaded: Any, file: Path) -> dict[str, Call]:
    """Find the state dict in what a pickle holds: the mapping itself, or the one under a customary key."""
    if isinstance(loaded, dict):
        loaded = next(
            (loaded[k] for k in ("model", "state_dict", "teacher") if isinstance(loaded.get(k), dict)), loaded
        )
    found = {name: _rebuilt(value) for name, value in loaded.items()} if isinstance(loaded, dict) else {}
    calls = {name: call for name, call in found.items() if call is not None}
    if not found or len(calls) < len(found):
        raise WeightsFormatError(
            f"{file} holds no state dict: expected a mapping of names to tensors, got {type(loaded).__name__}",
            remedy="save the model's state_dict()",
        )
    return calls


def _rebuilt(value: Any) -> Call | None:
    """Return the call that makes a tensor, without the parameter or the subclass around it; None for other values."""
    while isinstance(value, Call):
        name = value.name.rpartition(".")[2]
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            value = value.arguments[0]
        elif name == "_rebuild_from_type_v2":
            value = Call(value.arguments[0], value.arguments[2])
        else:
            return value if name.startswith("_rebuild_") else None
    return None


def _tensor(name: str, call: Call, ranges: Mapping[str, FileRange], file: Path) -> StoredTensor:
    """Find the bytes of a tensor.

    Raises:
        WeightsFormatError: It is sparse, quantized or of another odd kind, has no values, or is larger than its bytes.
    """
    function = call.name.rpartition(".")[2]
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        odd = {
            "_rebuild_sparse_tensor": ("a sparse tensor", "save it with to_dense()"),
            "_rebuild_qtensor": ("a quantized tensor, expected floating point", "name the original file"),
            "_rebuild_meta_tensor_no_storage": (
                "a tensor without values: the model was saved from the meta device",
                "save the state dict of a model that has weights",
            ),
        }
        what, remedy = odd.get(function, (f"made by {function}, which is not a plain tensor", "save plain tensors"))
        raise WeightsFormatError(f"{name} in {file} is {what}", remedy=remedy)
    reference, offset, shape, strides, *rest = call.arguments
    _, kind, key, _, length, *view = reference.identity
    start = 0
    if view and view[0] is not None:
        _, start, length = view[0]
    numbers = (offset, *shape, *strides, start, length)
    if len(shape) != len(strides) or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError(f"the shape of {name} is damaged")
    stored, dtype = _dtype_of(kind), _dtype_of(rest[2] if function == "_rebuild_tensor_v3" else kind)
    size, held = dtype.itemsize, length * stored.itemsize
    begin, record = start * stored.itemsize + offset * size, ranges[key]
    count = math.prod(shape)
    if count * size > held:
        raise WeightsFormatError(
            f"{name} in {file} has {count * size:,} bytes by its shape {tuple(shape)}, but the file holds {held:,}",
            remedy="save it with contiguous()",
        )
    extent = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if count else 0
    if begin + extent * size > record.length or (offset + extent) * size > held:
        raise ValueError(f"{name} is not within its storage")
    place = replace(record, offset=record.offset + begin, length=extent * size)
    row_major = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    plain = all(side < 2 or stride == step for side, stride, step in zip(shape, strides, row_major, strict=True))
    negated = any(isinstance(flags, dict) and flags.get("neg") for flags in rest[2:])
    if (plain or not count) and not negated:
        return StoredTensor(dtype, tuple(shape), (place,))

    def values() -> bytes:
        flat = np.frombuffer(read_piece(place), dtype)
        array = np.lib.stride_tricks.as_strided(flat, shape, [stride * size for stride in strides])
        return (-array if negated else array).tobytes()

    return StoredTensor(dtype, tuple(shape), (LazyBytes(count * size, values),))


def _trained_model_in(tensors: Mapping[str, StoredTensor], file: Path) -> dict[str, StoredTensor]:
    """Take the model out of a training module's state; what else it trained is of no use afterwards."""
    model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    if not model:
        raise WeightsFormatError(
            f"{file} is a Lightning checkpoint of another module: none of its {len(tensors)} tensors is below `model`",
            remedy="name a checkpoint that this package's training wrote",
        )
    return model
