"""Where the bytes of tensors lie in files, so that they can be copied without being loaded."""

import errno
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from no_time_to_train.errors import WeightsFormatError, WeightsNotFoundError
from no_time_to_train.io.strict_json import parse_json
from no_time_to_train.weights.formats import equinox as eqx
from no_time_to_train.weights.formats.reader import PICKLE_SUFFIXES, load_tensors, pickled_tensors, read_stored

FileState = tuple[int, int, int]


def state_of(file: Path) -> FileState:
    """Return a file's inode, size and time of the last write.

    Raises:
        WeightsNotFoundError: It is not there any more.
    """
    try:
        state = file.stat()
    except OSError as error:
        raise WeightsNotFoundError(
            f"{file} was removed while it was read: {error.strerror}", remedy="run it again when the file stays"
        ) from error
    return state.st_ino, state.st_size, state.st_mtime_ns


def check_unchanged(file: Path, state: FileState) -> None:
    """Refuse a file that was written or replaced since.

    Args:
        file: The file.
        state: As `state_of` gave it.

    Raises:
        WeightsFormatError: It was.
        WeightsNotFoundError: It was removed.
    """
    if state_of(file) != state:
        raise WeightsFormatError(f"{file} changed while it was read", remedy="run it again when nothing writes to it")


@dataclass(frozen=True)
class FileRange:
    """Bytes of a file.

    Attributes:
        file: The file.
        offset: First byte.
        length: Number of bytes.
        state: State of the file when its header was read; see `state_of`.
    """

    file: Path
    offset: int
    length: int
    state: FileState

    def check_unchanged(self) -> None:
        """Refuse a file that was written or replaced since its header was read: other bytes are there now.

        Raises:
            WeightsFormatError: It was.
        """
        check_unchanged(self.file, self.state)


@dataclass(frozen=True)
class Computed:
    """Bytes that are computed when they are written, so that no more than one tensor of them is in memory.

    Attributes:
        length: Number of bytes.
        compute: Gives them.
    """

    length: int
    compute: Callable[[], bytes]


Piece = FileRange | Computed | bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as bytes in row-major order.

    Attributes:
        dtype: Of its elements.
        shape: Its shape.
        pieces: Its bytes, one piece behind the other.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Length of all its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, part: int, parts: int) -> "StoredTensor":
        """Return one of several equal parts along the first axis."""
        (piece,) = self.pieces
        length = self.num_bytes // parts
        if isinstance(piece, FileRange):
            cut: Piece = replace(piece, offset=piece.offset + part * length, length=length)
        else:
            cut = read_piece(piece)[part * length : (part + 1) * length]
        return replace(self, shape=(self.shape[0] // parts, *self.shape[1:]), pieces=(cut,))

    def load_array(self) -> Shaped[np.ndarray, "..."]:
        """Read the values for NumPy and JAX; bfloat16 is that of `ml_dtypes`."""
        content = b"".join(read_piece(piece) for piece in self.pieces)
        kind = ml_dtypes.bfloat16 if self.dtype == torch.bfloat16 else str(self.dtype).removeprefix("torch.")
        return np.frombuffer(content, dtype=kind).reshape(self.shape)

    def load(self) -> Tensor:
        """Read the values; for small tensors."""
        content = bytearray(b"".join(read_piece(piece) for piece in self.pieces))
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)


def of_values(tensor: Tensor) -> StoredTensor:
    """Make a stored tensor of values in memory."""
    plain = tensor.detach().cpu().contiguous()
    content = plain.flatten().view(torch.uint8).numpy().tobytes()
    return StoredTensor(plain.dtype, tuple(plain.shape), (content,))


def stacked(parts: list[StoredTensor]) -> StoredTensor:
    """Put tensors of equal width on top of each other.

    Raises:
        WeightsFormatError: Their widths or dtypes differ, or they have no height.
    """
    if any(not part.shape or (part.dtype, part.shape[1:]) != (parts[0].dtype, parts[0].shape[1:]) for part in parts):
        raise WeightsFormatError(
            f"tensors of {[part.shape for part in parts]} cannot be joined", remedy="check the file with ntt inspect"
        )
    height = sum(part.shape[0] for part in parts)
    pieces = tuple(piece for part in parts for piece in part.pieces)
    return StoredTensor(parts[0].dtype, (height, *parts[0].shape[1:]), pieces)


def read_piece(piece: Piece) -> bytes:
    """Read the bytes of a piece."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, Computed):
        return piece.compute()
    piece.check_unchanged()
    with piece.file.open("rb") as stream:
        stream.seek(piece.offset)
        content = stream.read(piece.length)
    piece.check_unchanged()
    return content


def parts_of(piece: Piece, size: int) -> Iterator[bytes | int]:
    """Go through the bytes of a piece in parts of at most `size`; a number stands for so many zeros in a file's hole.

    Raises:
        WeightsFormatError: The file ends before the piece does.
    """
    if not isinstance(piece, FileRange):
        yield read_piece(piece)
        return
    piece.check_unchanged()
    with piece.file.open("rb", buffering=0) as stream:
        position, end = piece.offset, piece.offset + piece.length
        while position < end:
            length = min(size, end - position)
            hole = _hole_at(stream.fileno(), position, end)
            if hole:
                yield min(hole, length)
                position += min(hole, length)
                continue
            stream.seek(position)
            part = stream.read(length)
            if not part:
                raise WeightsFormatError(f"{piece.file} ended early", remedy="fetch the file again")
            yield part
            position += len(part)
    piece.check_unchanged()


def _hole_at(descriptor: int, position: int, end: int) -> int:
    """Return how many bytes from `position` on are in a hole of the file, as far as the system tells."""
    try:
        return min(os.lseek(descriptor, position, os.SEEK_DATA), end) - position
    except OSError as error:
        # There is no data behind this place; any other failure only means that holes are not told.
        return end - position if error.errno == errno.ENXIO and position < os.fstat(descriptor).st_size else 0


def locate_tensors(path: Path) -> dict[str, StoredTensor]:
    """Find the bytes of all tensors of a weights file or folder.

    Args:
        path: What `read_stored` takes. Files of torch's old format, and tensors that are not stored row by row, are
            read into memory.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: The file is damaged, or no weights file.
    """
    stored = read_stored(path, headers_only=True)
    if stored.files[0].suffix in PICKLE_SUFFIXES:
        return _in_pickle(stored.files[0])
    if stored.files[0].suffix in eqx.SUFFIXES:
        found_file = eqx.read_eqx(stored.files[0])
        state = state_of(found_file.data)
        return {
            name: StoredTensor(
                array.dtype, array.shape, (FileRange(found_file.data, array.offset, array.num_bytes, state),)
            )
            for name, array in found_file.arrays.items()
        }
    found: dict[str, StoredTensor] = {}
    for file in stored.files:
        state = state_of(file)
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = parse_json(stream.read(length))
        for name, entry in header.items():
            if name in stored.tensors:
                begin, end = entry["data_offsets"]
                tensor = stored.tensors[name]
                where = FileRange(file, 8 + length + begin, end - begin, state)
                found[name] = StoredTensor(tensor.dtype, tuple(tensor.shape), (where,))
    return found


def _in_pickle(file: Path) -> dict[str, StoredTensor]:
    state = state_of(file)
    # A fake load notes where in the file each storage begins.
    with FakeTensorMode():
        tensors = pickled_tensors(load_tensors(file, headers_only=False), file).tensors
    values: dict[str, Tensor] = {}
    found = {}
    for name, fake in tensors.items():
        start = getattr(fake.untyped_storage(), "_checkpoint_offset", None)
        if start is None or not fake.is_contiguous():
            values = values or read_stored(file).tensors
            found[name] = of_values(values[name])
        else:
            size = fake.dtype.itemsize
            where = FileRange(file, start + fake.storage_offset() * size, fake.numel() * size, state)
            found[name] = StoredTensor(fake.dtype, tuple(fake.shape), (where,))
    return found
