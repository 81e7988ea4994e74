"""Hashes of weights files, each computed once for as long as the file stays as it is."""

import hashlib
from functools import lru_cache
from pathlib import Path

from no_time_to_train.errors import WeightsNotFoundError
from no_time_to_train.weights.inspect import sha256_of

_HASHED_WHOLE = 4 << 30
_SAMPLE, _SAMPLED_EVERY = 1 << 16, 1 << 24


def content_hash(file: Path) -> str:
    """Return a file's SHA-256 as `sha256:HEX`, or `sampled-sha256:HEX` for a file above 4 GiB.

    Samples are 64 KiB in every 16 MiB, with the file's length: they recognize other weights, but not a flipped bit.

    Raises:
        WeightsNotFoundError: The file cannot be read.
    """
    return _content_hash(*_stamp(file))


def cached_sha256(file: Path) -> str:
    """Return the hash of a file in hex; see `sha256_of`.

    Raises:
        WeightsNotFoundError: The file cannot be read.
    """
    return _sha256(*_stamp(file))


def _stamp(file: Path) -> tuple[Path, int, int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise WeightsNotFoundError(f"cannot read {file}: {error}", remedy="check the path and permissions") from error
    return file.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _sha256(file: Path, inode: int, size: int, mtime_ns: int) -> str:
    return sha256_of(file)


@lru_cache(maxsize=256)
def _content_hash(file: Path, inode: int, size: int, mtime_ns: int) -> str:
    if size <= _HASHED_WHOLE:
        return f"sha256:{_sha256(file, inode, size, mtime_ns)}"
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for begin in range(0, size, _SAMPLED_EVERY):
            stream.seek(begin)
            digest.update(stream.read(_SAMPLE))
    return f"sampled-sha256:{digest.hexdigest()}"
