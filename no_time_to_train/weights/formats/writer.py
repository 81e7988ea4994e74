"""Writing weights in other layouts, byte by byte from the files that hold them."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.weights.formats.equinox import DESCRIPTIONS, array_header, header_line
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, parts_of

_BLOCK = 1 << 24
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
}


def write_safetensors(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, copying bytes.

    Raises:
        WeightsFormatError: A dtype that no encoder has, or a source that ended early.
        OutputError: The file cannot be written.
    """
    tensors = dict(sorted(tensors.items()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise WeightsFormatError(f"{name} is {tensor.dtype}, which no encoder has", remedy="name the original file")
        begin, end = end, end + tensor.num_bytes
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(content)) + content)
        for tensor in tensors.values():
            _copy(tensor, stream, checksum=False)
        # A hole at the end is not part of the file yet.
        stream.truncate(8 + len(content) + end)


def write_pickle(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a state dict as `torch.save` does, copying bytes.

    Raises:
        WeightsFormatError: A source that ended early.
        OutputError: There is such a file, or it cannot be written.
    """
    with FakeTensorMode():
        fakes = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    with atomic_path(path, replace=False) as temporary:
        # torch reserves the space of each tensor; where it begins is known when the file is read again.
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(fakes, temporary)
        with FakeTensorMode():
            written = torch.load(temporary, weights_only=True)
        offsets = {name: written[name].untyped_storage()._checkpoint_offset for name in tensors}
        sums: dict[int, int] = {}
        with temporary.open("r+b") as stream:
            for name, tensor in tensors.items():
                stream.seek(offsets[name])
                sums[offsets[name]] = _copy(tensor, stream)
        _mend_checksums(temporary, sums)


def _mend_checksums(path: Path, sums: Mapping[int, int]) -> None:
    """Put the right CRC-32 where a zip archive states that of a record, by where the record's bytes begin."""
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    with path.open("r+b") as stream:
        for entry in entries:
            stream.seek(start)
            head = stream.read(46)
            name_length, extra_length, comment_length = struct.unpack("<HHH", head[28:34])
            stream.seek(entry.header_offset + 26)
            local_name, local_extra = struct.unpack("<HH", stream.read(4))
            begin = entry.header_offset + 30 + local_name + local_extra
            if begin in sums:
                checksum = struct.pack("<I", sums[begin])
                stream.seek(start + 16)
                stream.write(checksum)
                # A record whose size was not known at first states its sum behind its bytes.
                described_behind = entry.flag_bits & 8
                stream.seek(begin + entry.file_size + 4 if described_behind else entry.header_offset + 14)
                stream.write(checksum)
            start += 46 + name_length + extra_length + comment_length


def _copy(tensor: StoredTensor, stream: BinaryIO, *, checksum: bool = True) -> int:
    """Append a tensor's bytes and return their CRC-32, or 0 if it is not asked for."""
    total = 0
    for piece in tensor.pieces:
        for part in parts_of(piece, _BLOCK):
            if not checksum and isinstance(part, int):
                stream.seek(part, 1)
                continue
            content = bytes(part) if isinstance(part, int) else part
            stream.write(content)
            total = zlib.crc32(content, total) if checksum else 0
    return total


def write_equinox(path: Path, tensors: Mapping[str, StoredTensor], header: Mapping[str, Any]) -> None:
    """Write an Equinox file, copying bytes: a line of JSON, then the leaves as `equinox.tree_serialise_leaves` does.

    Args:
        path: The file.
        tensors: As `equinox_tensors` gave them.
        header: What the line says beside the names of the leaves.

    Raises:
        WeightsFormatError: A dtype that no encoder has, or a source that ended early.
        OutputError: There is such a file, or it cannot be written.
    """
    with atomic_path(path, replace=False) as temporary, temporary.open("wb") as stream:
        stream.write(header_line(header, list(tensors)))
        for name, tensor in tensors.items():
            if tensor.dtype not in DESCRIPTIONS:
                raise WeightsFormatError(
                    f"{name} is {tensor.dtype}, which no encoder has", remedy="name the original file"
                )
            stream.write(array_header(tensor.dtype, tensor.shape))
            _copy(tensor, stream, checksum=False)
        stream.truncate(stream.tell())
