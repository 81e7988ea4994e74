"""Writing weights in other layouts, byte by byte from the files that hold them."""

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from os import SEEK_CUR
from pathlib import Path
from typing import Any

from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.weights.formats.equinox import array_header, header_line
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, iter_chunks

_BLOCK = 1 << 24
_LARGE_RECORD = 1 << 30  # from there on, sizes are written in 64 bits
_PADDING = 0x4246  # torch's kind of extra field
_ALIGNMENT = 64  # of records, as torch has it
_KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int8": "I8"}
_STORAGES = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16"}


def write_safetensors(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, copying bytes.

    Raises:
        WeightsFormatError: A source that ended early or changed.
        OutputError: The file cannot be written.
    """
    tensors = dict(sorted(tensors.items()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.num_bytes
        header[name] = {"dtype": _KINDS[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(content)) + content)
        for tensor in tensors.values():
            _copy(tensor, stream.write, stream.seek)
        # A hole at the end is not part of the file yet.
        stream.truncate(8 + len(content) + end)


def write_pickle(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a state dict as `torch.save` does, copying bytes.

    Raises:
        WeightsFormatError: A source that ended early or changed.
        OutputError: There is such a file, or it cannot be written.
    """
    with (
        atomic_path(path, replace=False) as temporary,
        temporary.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), _pickled(tensors))
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), "little")
        for index, tensor in enumerate(tensors.values()):
            entry = zipfile.ZipInfo(f"archive/data/{index}")
            entry.file_size = tensor.num_bytes
            large = tensor.num_bytes > _LARGE_RECORD
            begin = file.tell() + 30 + len(entry.filename) + 4 + (20 if large else 0)  # of its bytes
            entry.extra = struct.pack("<HH", _PADDING, -begin % _ALIGNMENT) + b"Z" * (-begin % _ALIGNMENT)
            with archive.open(entry, "w", force_zip64=large) as record:
                _copy(tensor, record.write, None)
        archive.writestr(zipfile.ZipInfo("archive/version"), "3\n")


def _pickled(tensors: Mapping[str, StoredTensor]) -> bytes:
    """Return the pickle of a state dict, by its opcodes: what it names is torch's, which need not be there."""

    def text(value: str) -> bytes:
        return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()

    def number(value: int) -> bytes:
        return pickle.LONG1 + b"\x08" + struct.pack("<q", value)

    def row(*items: bytes) -> bytes:
        return pickle.MARK + b"".join(items) + pickle.TUPLE

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    parts = [pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for index, (key, tensor) in enumerate(tensors.items()):
        storage = name("torch", f"{_STORAGES[tensor.dtype.name]}Storage")
        count = number(math.prod(tensor.shape))
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        arguments = row(
            row(text("storage"), storage, text(str(index)), text("cpu"), count) + pickle.BINPERSID,
            number(0),
            row(*map(number, tensor.shape)),
            row(*map(number, strides)),
            pickle.NEWFALSE,  # whether it requires gradients
            name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,  # its hooks
        )
        parts += [text(key), name("torch._utils", "_rebuild_tensor_v2"), arguments, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _copy(tensor: StoredTensor, write: Callable[[bytes], object], skip: Callable[[int, int], object] | None) -> None:
    """Append a tensor's bytes; the holes of a file as zeros, unless they can be skipped."""
    for piece in tensor.pieces:
        for part in iter_chunks(piece, _BLOCK):
            if skip is not None and isinstance(part, int):
                skip(part, SEEK_CUR)
            else:
                write(bytes(part) if isinstance(part, int) else part)


def write_equinox(path: Path, tensors: Mapping[str, StoredTensor], header: Mapping[str, Any]) -> None:
    """Write an Equinox file, copying bytes: a line of JSON, then the leaves as `equinox.tree_serialise_leaves` does.

    Args:
        path: The file.
        tensors: As `equinox_tensors` gave them.
        header: What the line says beside the names of the leaves.

    Raises:
        WeightsFormatError: A source that ended early or changed.
        OutputError: There is such a file, or it cannot be written.
    """
    with atomic_path(path, replace=False) as temporary, temporary.open("wb") as stream:
        stream.write(header_line(header, list(tensors)))
        for tensor in tensors.values():
            stream.write(array_header(tensor.dtype, tensor.shape))
            _copy(tensor, stream.write, stream.seek)
        stream.truncate(stream.tell())
