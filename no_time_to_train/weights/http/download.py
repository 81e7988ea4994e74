"""One file over HTTP: resumed where it broke off, checked by length and hash, and in place only when it is whole."""

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import httpx2

from no_time_to_train.errors import ChecksumMismatchError, DiskFullError, FetchError, NetworkError, OutputError
from no_time_to_train.weights.http.errors import (
    RETRYABLE_STATUS,
    Answer,
    Target,
    error_from_response,
    error_from_transport,
    not_an_address,
    retry_after,
)
from no_time_to_train.weights.http.requests import Pace, opened, read

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
# A link or a pipe that somebody put in a file's place is not followed or waited for.
_IN_PLACE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Digest:
    """A hash that a file must have.

    Attributes:
        kind: `sha256` of the bytes, or `git`, the SHA-1 that git gives them as a blob.
        value: In hex; of a sha256 possibly its beginning alone.
    """

    kind: Literal["sha256", "git"]
    value: str

    def fits(self, file: Path) -> bool:
        """Return whether a file has it; reads the whole file."""
        if self.kind == "git":
            computed = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
        else:
            computed = hashlib.sha256()
        with file.open("rb") as stream:
            while part := stream.read(_BLOCK):
                computed.update(part)
        return computed.hexdigest().startswith(self.value)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        name: In the folder that takes it.
        target: Where it lies.
        size: In bytes.
        digest: What it must hash to; None where nobody says.
        version: Two downloads with the same one give the same bytes; empty where a download cannot be resumed.
        headers: What goes with the request, to that host alone.
        etag: What every answer must name as the file's version, if it names one.
    """

    name: str
    target: Target
    size: int
    digest: Digest | None
    version: str
    headers: Mapping[str, str]
    etag: str = ""

    def partial(self, folder: Path) -> Path:
        """Return where what has come of it is kept."""
        mark = hashlib.sha256(f"{self.version} {self.size}".encode()).hexdigest()[:12]
        return folder / f"{self.name}.{mark}.incomplete"


@dataclass(frozen=True)
class Retries:
    """When to try again.

    Attributes:
        attempts: Tries in a row that bring too little before it is given up.
        first_wait: Seconds before the second of them; doubles each time.
        longest_wait: Seconds at most, also where the server asks for more.
        min_speed: Bytes a second that a file has to come with; a connection that is slower is given up, and a try
            that brings fewer, its wait included, counts as one that brought too little.
        speed_window: Seconds over which the speed of a connection is taken.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 300.0
    min_speed: float = 1000.0
    speed_window: float = 60.0

    def wait(self, failures: int, asked: float | None = None) -> None:
        """Wait after so many failures, or as long as the server asks."""
        seconds = self.first_wait * 2 ** (failures - 1) if asked is None else asked
        time.sleep(min(max(seconds, 0), self.longest_wait))


class _Passing(Exception):
    """A failure that may be gone at the next attempt."""

    def __init__(self, error: FetchError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


Advance = Callable[[int], None]


def download(file: RemoteFile, folder: Path, *, advance: Advance, retries: Retries) -> Path:
    """Fetch a file into a folder, going on where an earlier call stopped.

    Args:
        file: What to fetch.
        folder: Takes the file, and while it comes what is there of it.
        advance: Called with each number of bytes that came; negative where bytes are thrown away.
        retries: When to try again.

    Returns:
        The whole, checked file.

    Raises:
        FetchError: What the server answers, or that it cannot be reached.
        ChecksumMismatchError: Length or hash is not what was announced; what came is removed.
        DiskFullError: The disk is full; what came is kept.
    """
    whole = folder / file.name
    if _is_own_file(whole) and file.digest is not None and file.digest.fits(whole):
        advance(file.size)
        return whole
    partial = file.partial(folder)
    for other in folder.glob(f"{file.name}.*.incomplete"):
        if other != partial or not file.version:
            other.unlink()
    have = _size(partial)
    advance(have)
    failures, since = 0, time.monotonic()
    while not _is_own_file(partial) or have != file.size:
        try:
            _stream(file, partial, advance, retries)
        except _Passing as failure:
            gained, now = _size(partial) - have, time.monotonic()
            enough = gained > 0 and gained >= retries.min_speed * (now - since)
            failures, since = 1 if enough else failures + 1, now
            log.info("%s: %s; trying again", file.name, failure.error.message)
            if failures >= retries.attempts:
                raise failure.error from failure
            retries.wait(failures, failure.wait)
        have = _size(partial)
    _check_and_place(file, partial, whole)
    return whole


def _is_own_file(path: Path) -> bool:
    """Return whether there is a file, and not a link to one."""
    return path.is_file() and not path.is_symlink()


def _size(path: Path) -> int:
    return path.stat().st_size if _is_own_file(path) else 0


def _stream(file: RemoteFile, partial: Path, advance: Advance, retries: Retries) -> None:
    """Append to the partial file what the server sends from its end on."""
    have = _size(partial)
    if have > file.size:
        _start_over(partial, have, advance)
        have = 0
    headers = dict(file.headers)
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with opened("GET", file.target.url, headers) as response:
            if response.status_code == 416:
                _start_over(partial, have, advance)
                none = NetworkError(f"{file.target.name}: the server has no byte {have}", remedy="run it again")
                raise _Passing(none, 0.0 if have else None)
            if response.status_code >= 300:
                _refused(read(response), file.target)
            _check_range(response, file, partial, have, advance)
            pace = Pace(retries.min_speed, retries.speed_window)
            with open_partial(partial) as stream:
                for part in response.iter_raw():
                    _write(stream, partial, part, file, advance)
                    if pace.is_too_slow(len(part)):
                        raise _Passing(_too_slow(file, retries))
    except httpx2.HTTPError as error:
        raise _Passing(error_from_transport(error, file.target)) from error
    except httpx2.InvalidURL as error:
        raise not_an_address(file.target, error) from error
    came = _size(partial)
    if came < file.size:
        raise _Passing(
            NetworkError(
                f"{file.target.name}: the connection ended after {came:,} of {file.size:,} bytes of {file.name}",
                remedy="run it again, it goes on from there",
            )
        )


def _too_slow(file: RemoteFile, retries: Retries) -> NetworkError:
    return NetworkError(
        f"{file.target.name}: {file.name} came with less than {retries.min_speed:,.0f} bytes a second "
        f"for {retries.speed_window:g} s",
        remedy="run it again on a faster network, it goes on from there",
    )


def _refused(answer: Answer, target: Target) -> NoReturn:
    error = error_from_response(answer, target)
    if answer.status in RETRYABLE_STATUS and isinstance(error, FetchError):
        raise _Passing(error, retry_after(answer))
    raise error


def _check_range(response: httpx2.Response, file: RemoteFile, partial: Path, have: int, advance: Advance) -> None:
    """Refuse an answer that is about other bytes than those asked for."""
    if file.etag and response.headers.get("ETag", file.etag) != file.etag:
        _start_over(partial, _size(partial), advance)
        raise NetworkError(f"{file.target.name} changed while it came", remedy="run it again")
    length = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        begin, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        fits = begin.startswith(f"{have}-") and total in (str(file.size), "*")
        offered = total
    else:
        if have:  # the server sends the whole file again
            _start_over(partial, have, advance)
        fits, offered = length in ("", str(file.size)), length
    if not fits:
        _start_over(partial, _size(partial), advance)
        raise ChecksumMismatchError(
            f"{file.target.name} announced {file.size:,} bytes of {file.name}, and sends {offered or 'others'}",
            remedy="run it again; if it stays, the server or a proxy on the way is broken",
        )


def open_partial(partial: Path) -> BinaryIO:
    """Open what has come of a file to append to it; made if it is missing.

    Raises:
        OutputError: It cannot be written, or it is a link or no file: what it points to is left alone.
    """
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _IN_PLACE, 0o666)
    except OSError as error:
        if partial.is_symlink():
            raise _not_own(partial) from error
        raise _not_written(partial, error) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise _not_own(partial)
    return os.fdopen(descriptor, "ab", buffering=0)


def _not_own(path: Path) -> OutputError:
    return OutputError(
        f"{path} is a link or not a file, expected what an earlier fetch left there", remedy="remove it, run it again"
    )


def _write(stream: BinaryIO, partial: Path, part: bytes, file: RemoteFile, advance: Advance) -> None:
    if stream.tell() + len(part) > file.size:
        partial.unlink()
        raise ChecksumMismatchError(
            f"{file.target.name} sends more than the {file.size:,} bytes announced of {file.name}",
            remedy="run it again; if it stays, the server or a proxy on the way is broken",
        )
    try:
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        raise _not_written(partial, error) from error
    advance(len(part))


def _start_over(partial: Path, have: int, advance: Advance) -> None:
    partial.unlink(missing_ok=True)
    advance(-have)


def _check_and_place(file: RemoteFile, partial: Path, whole: Path) -> None:
    try:
        descriptor = os.open(partial, os.O_RDONLY | _IN_PLACE)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if file.digest is not None and not file.digest.fits(partial):
            partial.unlink()
            raise ChecksumMismatchError(
                f"{file.name} of {file.target.name} came with another hash than {file.digest.kind} {file.digest.value}",
                remedy="run it again; if it stays, the server or a proxy on the way changes bytes",
            )
        partial.replace(whole)
    except OSError as error:
        raise _not_written(whole, error) from error


def _not_written(path: Path, error: OSError) -> DiskFullError | OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"the disk of {path.parent} is full", remedy="make room and run it again; what has come is kept"
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}", remedy="name a folder that you may write to")
