"""One file over HTTP: resumed where it broke off, checked by length and hash, and in place only when it is whole."""

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import httpx2

from no_time_to_train.errors import ChecksumMismatchError, DiskFullError, FetchError, NetworkError, OutputError
from no_time_to_train.weights.responses import PASSING, Target, asked_wait, refusal, session, unreachable

log = logging.getLogger(__name__)

TIMEOUT = httpx2.Timeout(30, connect=10)


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
        """Tell whether a file has it; reads the whole file."""
        if self.kind == "git":
            content = file.read_bytes()
            computed = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        else:
            with file.open("rb") as stream:
                computed = hashlib.file_digest(stream, "sha256").hexdigest()
        return computed.startswith(self.value)


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
        attempts: Tries in a row that bring not a single byte before it is given up.
        first_wait: Seconds before the second of them; doubles each time.
        longest_wait: Seconds at most, also where the server asks for more.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 300.0

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
    if whole.is_file() and file.digest is not None and file.digest.fits(whole):
        advance(file.size)
        return whole
    partial = file.partial(folder)
    for other in folder.glob(f"{file.name}.*.incomplete"):
        if other != partial or not file.version:
            other.unlink()
    advance(partial.stat().st_size if partial.is_file() else 0)
    failures = 0
    while not partial.is_file() or partial.stat().st_size != file.size:
        before = partial.stat().st_size if partial.is_file() else 0
        try:
            _stream(file, partial, advance)
        except _Passing as failure:
            gained = partial.is_file() and partial.stat().st_size > before
            failures = 1 if gained else failures + 1
            log.info("%s: %s; trying again", file.name, failure.error.message)
            if failures >= retries.attempts:
                raise failure.error from failure
            retries.wait(failures, failure.wait)
    _check_and_place(file, partial, whole)
    return whole


def _stream(file: RemoteFile, partial: Path, advance: Advance) -> None:
    """Append to the partial file what the server sends from its end on."""
    have = partial.stat().st_size if partial.is_file() else 0
    if have > file.size:
        _start_over(partial, have, advance)
        have = 0
    # Compressed answers have other lengths and ranges than the file.
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with session().stream("GET", file.target.url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code == 416:
                _start_over(partial, have, advance)
                none = NetworkError(f"{file.target.name}: the server has no byte {have}", remedy="run it again")
                raise _Passing(none, 0.0 if have else None)
            if response.status_code >= 400:
                response.read()
                _refused(response, file.target)
            _check_range(response, file, partial, have, advance)
            with _opened(partial) as stream:
                for part in response.iter_raw():
                    _write(stream, part, file, advance)
    except httpx2.HTTPError as error:
        raise _Passing(unreachable(error, file.target)) from error
    if partial.stat().st_size < file.size:
        came = partial.stat().st_size
        raise _Passing(
            NetworkError(
                f"{file.target.name}: the connection ended after {came:,} of {file.size:,} bytes of {file.name}",
                remedy="run it again, it goes on from there",
            )
        )


def _refused(response: httpx2.Response, target: Target) -> NoReturn:
    error = refusal(response, target)
    if response.status_code in PASSING and isinstance(error, FetchError):
        raise _Passing(error, asked_wait(response))
    raise error


def _check_range(response: httpx2.Response, file: RemoteFile, partial: Path, have: int, advance: Advance) -> None:
    """Refuse an answer that is about other bytes than those asked for."""
    if file.etag and response.headers.get("ETag", file.etag) != file.etag:
        if partial.is_file():
            _start_over(partial, partial.stat().st_size, advance)
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
        if partial.is_file():
            _start_over(partial, partial.stat().st_size, advance)
        raise ChecksumMismatchError(
            f"{file.target.name} announced {file.size:,} bytes of {file.name}, and sends {offered or 'others'}",
            remedy="run it again; if it stays, the server or a proxy on the way is broken",
        )


def _opened(partial: Path) -> BinaryIO:
    try:
        return partial.open("ab", buffering=0)
    except OSError as error:
        raise _not_written(partial, error) from error


def _write(stream: BinaryIO, part: bytes, file: RemoteFile, advance: Advance) -> None:
    if stream.tell() + len(part) > file.size:
        Path(stream.name).unlink()
        raise ChecksumMismatchError(
            f"{file.target.name} sends more than the {file.size:,} bytes announced of {file.name}",
            remedy="run it again; if it stays, the server or a proxy on the way is broken",
        )
    try:
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        raise _not_written(Path(stream.name), error) from error
    advance(len(part))


def _start_over(partial: Path, have: int, advance: Advance) -> None:
    partial.unlink(missing_ok=True)
    advance(-have)


def _check_and_place(file: RemoteFile, partial: Path, whole: Path) -> None:
    try:
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
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
