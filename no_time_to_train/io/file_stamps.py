"""Stamps of files: whether a file still has the content that it had."""

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from no_time_to_train.io.paths import open_regular

# File systems count time in steps of up to two seconds (FAT). Within a step, a second write leaves no trace.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class FileStamp:
    """State and content of a file.

    Attributes:
        size: In bytes.
        mtime_ns: Time of the last write. Programs can set it to anything.
        ctime_ns: Time of the last change of content or attributes. Programs cannot set it.
        inode: Number of the file in its file system. A file that takes the place of another one has its own.
        sha256: Hash of the content.
        settled: Whether the file had been left alone for longer than a file system's steps of time. If not, a later
            write may have left all of the above but the hash as it was.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str
    settled: bool

    @classmethod
    def of(cls, stream: BufferedReader) -> "FileStamp":
        """Stamp an open file, and leave its position as it is."""
        # The state comes first: a write while the content is hashed then shows as another state later.
        now, state, position = time.time_ns(), os.fstat(stream.fileno()), stream.tell()
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(position)
        settled = now - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS
        return cls(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, digest, settled)

    def same_state(self, path: Path) -> bool:
        """Return whether size, times and inode of a file are those of the stamp.

        Raises:
            OSError: The file is not there.
        """
        state = path.stat()
        return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino) == (
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.inode,
        )

    def same_content(self, path: Path) -> bool:
        """Return whether a file has the stamp's content. Where its state leaves no doubt, it is not read.

        Raises:
            OSError: The file is not there, or cannot be read.
        """
        if self.settled and self.same_state(path):
            return True
        if path.stat().st_size != self.size:
            return False
        with open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256

    def to_json(self) -> dict[str, Any]:
        """Return the stamp as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "FileStamp":
        """Return the stamp that `to_json` gave.

        Raises:
            ValueError: The values are not a stamp's.
        """
        kinds = {"size": int, "mtime_ns": int, "ctime_ns": int, "inode": int, "sha256": str, "settled": bool}
        if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != kinds:
            raise ValueError("expected the values of a stamp")
        return cls(**values)
