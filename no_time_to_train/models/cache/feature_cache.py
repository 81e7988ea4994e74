"""Arrays that are kept on disk from run to run, named by what they were computed from.

One safetensors file per entry, so that several processes share a folder without talking to each other: files appear
whole, are read at once into memory, and may be removed by anyone at any time.
"""

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from no_time_to_train.configs.pipeline import FeatureCacheConfig
from no_time_to_train.errors import ConfigError, OutputError
from no_time_to_train.io.atomic import write_bytes_atomic
from no_time_to_train.io.paths import read_regular
from no_time_to_train.io.stale_files import remove_left_over
from no_time_to_train.matching.array_ops import Array, is_numpy

log = logging.getLogger(__name__)

_FORMAT = "no_time_to_train feature cache 1"
_SUFFIX = ".ntt-features.safetensors"
_ENTRY = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
# After removals the entries fill at most this part, so that not every entry written removes another.
_FILLED = 0.9
# A process looks at the folder again after writing this part of it, since others write too.
_UNSEEN = 1 / 16
# What safetensors raises on bytes that it did not write, and what this module raises on those of another key.
_DAMAGE = (SafetensorError, ValueError, TypeError, KeyError, AssertionError, RuntimeError)


class FeatureCache:
    """A bounded cache of named arrays on disk, for any number of threads and processes at once.

    It gives torch tensors where torch has been imported, and NumPy arrays otherwise; it takes either.

    What was used longest ago goes first. Nothing is removed but files with the names that this class gives. While P
    processes write at once, the folder may for a moment hold more than `max_bytes`, by at most P / 16 of it and what
    they are writing.

    Args:
        folder: Where the entries are; made when missing. Other things may lie in it.
        max_bytes: Most bytes that all entries take together.

    Attributes:
        hits: Entries that `get` found.
        misses: Entries that it did not.
        written: Entries that `put` wrote.

    Raises:
        ConfigError: `max_bytes` is less than 1.
        OutputError: The folder cannot be made or written to.

    Examples:
        >>> import tempfile
        >>> cache = FeatureCache(Path(tempfile.mkdtemp()), max_bytes=10_000)
        >>> key = content_key("an-encoder", np.zeros((3, 4, 4), dtype=np.uint8))
        >>> cache.get(key) is None
        True
        >>> cache.put(key, {"patches": np.ones(2)})
        >>> cache.get(key)["patches"].tolist()
        [1.0, 1.0]
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"a cache of {max_bytes} bytes, expected at least 1", remedy="raise max_bytes")
        self.folder = folder
        self.max_bytes = max_bytes
        self.hits = self.misses = self.written = 0
        self._counting = threading.Lock()
        self._writing = True
        # Bytes that may be written before the folder is looked at: none, as long as nothing is known of it.
        self._room = 0
        self._making_room = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(
                f"cannot keep features in {folder}: {error.strerror or error}",
                remedy="name a folder that you may write to, or go without a cache",
            ) from error

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, int]]:
        """Go to another process as a cache of the same folder, its counters at 0."""
        return FeatureCache, (self.folder, self.max_bytes)

    def get(self, key: str, usable: Callable[[Mapping[str, Array]], bool] | None = None) -> dict[str, Array] | None:
        """Return the tensors of an entry, on the CPU and in memory of their own, and mark it as used.

        An entry that is damaged or not usable is removed, with a warning.

        Args:
            key: Names the entry; see `content_key`.
            usable: Decides whether tensors can be those of the key. A checksum says only that they are as they were
                written.

        Returns:
            What was put; None if there is no such entry.
        """
        tensors = self._read(self._path(key), key, usable)
        with self._counting:
            if tensors is None:
                self.misses += 1
            else:
                self.hits += 1
        return tensors

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Write an entry, in the place of an older one of its key, and remove others if there is no room.

        Entries larger than the whole cache are not written. When the disk cannot take one, a warning says so, once,
        and this object writes no more.

        Args:
            key: Names the entry; see `content_key`.
            tensors: Of any shape, dtype, kind and device.
        """
        if not self._writing or sum(tensor.nbytes for tensor in tensors.values()) > self.max_bytes:
            return
        content = _encode(key, tensors)
        if len(content) > self.max_bytes:
            return
        try:
            write_bytes_atomic(self._path(key), content)
        except OSError as error:
            self._stop_writing(str(error.__cause__ or error))
            return
        with self._counting:
            self.written += 1
        self._use_room(len(content))

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(_utf8(key)).hexdigest()
        return self.folder / digest[:2] / f"{digest}{_SUFFIX}"

    def _read(
        self, path: Path, key: str, usable: Callable[[Mapping[str, Array]], bool] | None
    ) -> dict[str, Array] | None:
        """Read an entry at once: whoever replaces or removes the file meanwhile changes nothing of what was read."""
        try:
            tensors = _decode(read_regular(path), key)
            if usable is not None and not usable(tensors):
                raise ValueError("its tensors are not what the key names")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, *_DAMAGE) as error:
            log.warning("removed a damaged entry of the feature cache, %s: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return tensors

    def _stop_writing(self, reason: str) -> None:
        with self._counting:
            first, self._writing = self._writing, False
        if first:
            log.warning("the feature cache in %s is not written to any more: %s", self.folder, reason)

    def _use_room(self, size: int) -> None:
        """Account for bytes that were written, and look at the folder when it may be full."""
        with self._making_room:
            self._room -= size
            if self._room >= 0:
                return
            total = self._make_room()
            self._room = min(self.max_bytes - total, int(self.max_bytes * _UNSEEN))
        if total > self.max_bytes:
            self._stop_writing("it is full, and its entries cannot be removed")

    def _make_room(self) -> int:
        """Remove the entries that were used longest ago if all are too large together, and return what remains."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        if total <= self.max_bytes:
            return total
        for _, size, path in entries:
            if total <= self.max_bytes * _FILLED:
                break
            with suppress(OSError):
                Path(path).unlink(missing_ok=True)
                total -= size
        return total

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """List each entry's time of use in nanoseconds, size and path; remove what killed processes left behind."""
        for folder in _scan(self.folder):
            if not re.fullmatch(r"[0-9a-f]{2}", folder.name):
                continue
            remove_left_over(Path(folder))
            for file in _scan(Path(folder)):
                # Another process may have removed it since.
                if _ENTRY.fullmatch(file.name):
                    with suppress(OSError):
                        stat = file.stat(follow_symlinks=False)
                        yield stat.st_mtime_ns, stat.st_size, file.path


def open_cache(config: FeatureCacheConfig) -> FeatureCache | None:
    """Open the cache that settings name; None if they name none.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    return None if config.folder is None else FeatureCache(Path(config.folder), int(1e9 * config.max_gb))


def content_key(*parts: Array | str | bytes) -> str:
    """Name what was computed from these parts: SHA-256 of all of them, their kinds, dtypes, shapes and order.

    Args:
        parts: Say, the identity of a model, its settings and an image's pixels. Tensors and arrays may be strided;
            those that are contiguous and on the CPU are not copied.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: An array of Python objects, whose bytes say nothing of their values.
    """
    digest = hashlib.sha256()
    for part in parts:
        kind, content = _kind_and_content(part)
        digest.update(f"{len(kind)}:{kind}{content.nbytes}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _kind_and_content(part: Array | str | bytes) -> tuple[str, memoryview]:
    if isinstance(part, str):
        return "str", memoryview(_utf8(part))
    if isinstance(part, bytes):
        return "bytes", memoryview(part)
    if not is_numpy(part):
        return f"tensor {part.dtype} {tuple(part.shape)}", _bytes_of(part)
    if part.dtype.hasobject:
        raise ConfigError(f"no key can be made of an array of dtype {part.dtype}", remedy="give numbers or text")
    return f"array {part.dtype} {part.shape}", _bytes_of(part)


def _encode(key: str, tensors: Mapping[str, Array]) -> bytes:
    metadata = {"format": _FORMAT, "key": json.dumps(key), "checksum": _checksum(tensors)}
    if all(map(is_numpy, tensors.values())):
        return safetensors_numpy.save({name: np.ascontiguousarray(one) for name, one in tensors.items()}, metadata)
    import torch
    from safetensors import torch as safetensors_torch

    # Safetensors takes neither strided tensors nor two of one storage.
    own = {
        name: torch.as_tensor(tensor).detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return safetensors_torch.save(own, metadata)


def _decode(content: bytes, key: str) -> dict[str, Array]:
    """Read the bytes of an entry.

    Raises:
        ValueError: They are another format's, another key's or damaged, as far as safetensors did not see it.
    """
    tensors: dict[str, Array]
    if sys.modules.get("torch") is None:
        tensors = safetensors_numpy.load(content)
    else:
        from safetensors import torch as safetensors_torch

        tensors = safetensors_torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__") or {}
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}")
    if metadata.get("key") != json.dumps(key):
        raise ValueError("it is of another key")
    if metadata.get("checksum") != _checksum(tensors):
        raise ValueError("its checksum is wrong")
    return tensors


def _checksum(tensors: Mapping[str, Array]) -> str:
    """Return a CRC-32 over names, dtypes, shapes and values: safetensors has none, and disks do err."""
    checksum = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        # An entry is the same whichever kind of arrays it is of.
        dtype = f"torch.{str(tensor.dtype).removeprefix('torch.')}"
        checksum = zlib.crc32(json.dumps([name, dtype, list(tensor.shape)]).encode(), checksum)
        checksum = zlib.crc32(_bytes_of(tensor), checksum)
    return f"{checksum:08x}"


def _bytes_of(array: Array) -> memoryview:
    """Return an array's values as bytes in row order; an array that is contiguous in CPU memory is not copied."""
    if is_numpy(array):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    import torch

    flat = array.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    content: np.ndarray = flat.view(torch.uint8).numpy()
    return content.data


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder; what is none, or has gone, is empty."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _utf8(text: str) -> bytes:
    """Encode any text, file names that are not Unicode among them."""
    return text.encode("utf-8", "surrogatepass")
