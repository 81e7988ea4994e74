"""Tensors as they are in files: dtype, shape and the place of their bytes. Reading and copying them comes last."""

import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 # NumPy knows bfloat16 by its name then
import numpy as np
from jaxtyping import Shaped

from no_time_to_train.errors import WeightsFormatError, WeightsNotFoundError

FileState = tuple[int, int, int]
_BLOCK = 1 << 20


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
            WeightsNotFoundError: It was removed.
        """
        if state_of(self.file) != self.state:
            raise WeightsFormatError(
                f"{self.file} changed while it was read", remedy="run it again when nothing writes to it"
            )


@dataclass(frozen=True)
class LazyBytes:
    """Bytes that are computed when they are written, so that no more than one tensor of them is in memory.

    Attributes:
        length: Number of bytes.
        compute: Gives them.
    """

    length: int
    compute: Callable[[], bytes]


Piece = FileRange | LazyBytes | bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as bytes in row-major order.

    Attributes:
        dtype: Of its elements.
        shape: Its shape.
        pieces: Its bytes, one piece behind the other.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Length of all its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_floating(self) -> bool:
        """Return whether elements are floating point of 16 bits or more, as an encoder's are."""
        return self.dtype.name in ("float64", "float32", "float16", "bfloat16")

    def rows(self, part: int, parts: int) -> "StoredTensor":
        """Return one of several equal parts along the first axis."""
        (piece,) = self.pieces
        length = self.num_bytes // parts
        if isinstance(piece, FileRange):
            cut: Piece = replace(piece, offset=piece.offset + part * length, length=length)
        else:
            cut = read_piece(piece)[part * length : (part + 1) * length]
        return replace(self, shape=(self.shape[0] // parts, *self.shape[1:]), pieces=(cut,))

    def array(self) -> Shaped[np.ndarray, "..."]:
        """Return the values: memory-mapped where they stand in one place of a file, with private pages."""
        piece = self.pieces[0]
        if len(self.pieces) == 1 and isinstance(piece, FileRange) and piece.length:
            piece.check_unchanged()
            content = np.memmap(piece.file, np.uint8, mode="c", offset=piece.offset, shape=(piece.length,))
            flat = np.asarray(content).view(self.dtype)
        else:
            flat = np.frombuffer(bytearray(b"".join(map(read_piece, self.pieces))), self.dtype)
        return flat.reshape(self.shape)

    def is_finite(self) -> bool:
        """Return whether all values are finite in float32; integers are."""
        if self.dtype.kind not in "fV":  # the latter for bfloat16
            return True
        flat = self.array().reshape(-1)
        with np.errstate(over="ignore"):
            parts = (flat[begin : begin + _BLOCK] for begin in range(0, flat.size, _BLOCK))
            return all(bool(np.isfinite(part.astype(np.float32, copy=False)).all()) for part in parts)


@dataclass(frozen=True)
class WeightsFile:
    """All tensors of a weights file or folder.

    Attributes:
        tensors: By the names under which they are stored.
        files: The files that were named or found.
        container: What kind of files those are.
        metadata: What a safetensors file says next to its tensors.
        header: What an Equinox file says before its arrays, or Equimo next to them.
    """

    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    container: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)


def from_array(array: Shaped[np.ndarray, "..."]) -> StoredTensor:
    """Make a stored tensor of values in memory."""
    return StoredTensor(array.dtype, array.shape, (array.tobytes(),))


def concat_rows(parts: Sequence[StoredTensor]) -> StoredTensor:
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
    if isinstance(piece, LazyBytes):
        return piece.compute()
    piece.check_unchanged()
    with piece.file.open("rb") as stream:
        stream.seek(piece.offset)
        content = stream.read(piece.length)
    piece.check_unchanged()
    return content


def iter_chunks(piece: Piece, size: int) -> Iterator[bytes | int]:
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
