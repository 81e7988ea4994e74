"""Writing files so that nobody ever sees half of one: written beside, synced, renamed; and opening users' files."""

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from no_time_to_train.errors import ConfigError, NoTimeToTrainError, OutputError
from no_time_to_train.leftovers import replaced_name, unfinished_name, writing_in

# What ends writing for lack of room: a full disk, a full quota, and the largest file that `ulimit -f` allows.
_NO_ROOM = {
    errno.ENOSPC: "make room, or name a folder on another disk",
    errno.EDQUOT: "make room, or name a folder on another disk",
    errno.EFBIG: "raise the limit that ulimit -f shows, or name a folder on a file system that takes larger files",
}
# NumPy's `tofile` does not say why it could not write all.
_CUT_BY_NUMPY = re.compile(r"\d+ requested and \d+ written")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ONLY_LOCAL = "only local paths are read and written: copy or mount what is stored elsewhere"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well.

    The temporary file exists and is empty when the block begins, so that a folder that cannot be written to is known
    before the work is done rather than after it. On success it is synced and renamed onto `path`; if the block
    raises, it is removed and an older file at `path` stays as it was; if the process is killed, the next one that
    writes into the folder removes it.

    Args:
        path: The file to write; its parent folders are made. A symbolic link is followed, not replaced.

    Yields:
        A path in the same folder and with the same suffix, since some writers choose the format by the suffix.

    Raises:
        OutputError: `path` is a folder, or its folder cannot be made or written to, or the disk is full.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), [p.name for p in target.parent.iterdir()]
        ('whole', ['a.txt'])
    """
    _check_target(path)
    target = path.resolve()
    temporary = target.with_name(unfinished_name(target))
    with ExitStack() as stack:
        try:
            if target.is_dir():
                raise IsADirectoryError("it is a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(writing_in(target.parent))
            temporary.touch(exist_ok=False)
            stack.callback(temporary.unlink, missing_ok=True)
            mode = temporary.stat().st_mode
        except OSError as error:
            raise _cannot_write(path, error) from error
        with _room_for(path):
            yield temporary
        try:
            # Some writers leave a file that its owner alone may read.
            temporary.chmod(mode)
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        except OSError as error:
            raise _cannot_write(path, error) from error


@contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """Give a new folder beside `root` that takes its place when the block ends well.

    A folder that stood there is removed then. If the block raises, the new folder is removed and the old one stays; if
    the process is killed, the next one that writes beside it removes the new one.

    Args:
        root: The folder to write; its parents are made.

    Yields:
        An empty folder beside `root`.

    Raises:
        OutputError: The parent cannot be made or written to, or the disk is full.
    """
    _check_target(root)
    beside = root.with_name(unfinished_name(root))
    with ExitStack() as stack:
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(writing_in(root.parent))
            beside.mkdir()
        except OSError as error:
            raise OutputError(
                f"cannot write beside {root}: {error}", remedy="name a folder that you may write to"
            ) from error
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        with _room_for(root):
            yield beside
        put_in_place(beside, root)


@contextmanager
def atomic_files(folder: Path, last: str) -> Iterator[Path]:
    """Give a new folder whose files take their places in another one when the block ends well.

    Before any of them does, the old file called `last` is removed; the new one comes behind all others. So what is
    beside it is always of its own writing, and where it is missing somebody was interrupted.

    Args:
        folder: Where the files go; other files in it stay. Made if it is missing.
        last: The name of the file that makes the others count, such as weights beside their settings.

    Yields:
        An empty folder within `folder`.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    _check_target(folder)
    beside = folder / unfinished_name(Path(last))
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(writing_in(folder))
            beside.mkdir()
            mode = beside.stat().st_mode & 0o666
        except OSError as error:
            raise _cannot_write(folder / last, error) from error
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        with _room_for(folder / last):
            yield beside
        try:
            for path in beside.iterdir():
                path.chmod(mode)
                _sync(path)
            (folder / last).unlink(missing_ok=True)
            for path in sorted(beside.iterdir(), key=lambda path: path.name == last):
                _sync(folder)
                path.replace(folder / path.name)
            _sync(folder)
        except OSError as error:
            raise _cannot_write(folder / last, error) from error


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address such as `s3://bucket/key`, of which `Path` makes a folder called `s3:`.

    Examples:
        >>> is_address("s3://bucket/key"), is_address(Path("memory://key")), is_address("C:/key"), is_address("a/b:/c")
        (True, True, False, False)
    """
    first = str(path).split("/", 1)[0]
    return len(first) > 2 and first.endswith(":")


def check_local(path: Path | str, name: str) -> None:
    """Refuse an empty path, and what would become a local folder of that name: an address, or a variable.

    Args:
        path: What was given.
        name: The setting or option that it was given as.

    Raises:
        ConfigError: It is one.
    """
    if is_address(path):
        raise ConfigError(f"{name} is {_as_given(path)}, expected a path on this machine", remedy=_ONLY_LOCAL)
    if not str(path).strip():
        # As a `Path` it would be the working directory: "$OUT" in a script where OUT is not set.
        raise ConfigError(f"{name} is empty, expected a path", remedy="name one, or leave it out")
    if "${" in str(path):
        raise ConfigError(
            f"{name} is {path}, expected a path without variables",
            remedy="write it in full; a YAML of a run may begin its paths with ${trainer.default_root_dir}",
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before work is done for it; nothing is left there.

    Raises:
        OutputError: It is a file, or under one, or an address, or may not be written to.
    """
    _check_target(folder)
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        # Permissions alone do not tell of disks that are full or read-only.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}", remedy="name a folder that you may write to"
        ) from error


def put_in_place(new: Path, root: Path) -> None:
    """Move a whole folder to where another one may stand, which is removed.

    On Linux the two change places in one step. Elsewhere there is for a moment no folder, never half of one; if the
    process is killed then, the next one that writes there puts the old folder back.

    Args:
        new: A folder on the file system of `root`.
        root: Where it goes.

    Raises:
        OutputError: The folders cannot be moved.
    """
    try:
        for path in new.rglob("*"):
            _sync(path)
        _sync(new)
        with writing_in(root.parent):
            old = _swap(new, root) if root.exists() else None
            if old is None:
                new.rename(root)
            _sync(root.parent)
    except OSError as error:
        raise OutputError(
            f"cannot put a folder at {root}: {error.strerror or error}",
            remedy="name a folder in one that you may write to, and that is no mount point",
        ) from error
    # The new one is in place, whatever becomes of the old.
    if old is not None:
        remove_folder(old, beside=root)


def remove_folder(folder: Path, *, beside: Path | None = None) -> None:
    """Remove a folder so that nobody finds half of it; one that cannot be removed stays.

    Args:
        folder: What to remove.
        beside: Where what is left of it lies if the process is killed; where the folder was if None.
    """
    place = beside or folder
    with suppress(OSError), writing_in(place.parent):
        shutil.rmtree(folder.rename(place.with_name(unfinished_name(place))), ignore_errors=True)


def _swap(new: Path, root: Path) -> Path:
    """Put a folder where another one stands, and return where that is then."""
    if _exchange(new, root):
        return new
    old = root.rename(root.with_name(replaced_name(root)))
    try:
        new.rename(root)
    except OSError:
        old.rename(root)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    return bool(call(here, os.fsencode(one.absolute()), here, os.fsencode(other.absolute()), exchange) == 0)


def write_text_atomic(path: Path, text: str | Iterable[str]) -> None:
    """Write `text` to `path` as UTF-8, wholly or not at all; what comes in parts is written as it comes.

    Raises:
        OutputError: The file cannot be written, for instance because the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                stream.writelines([text] if isinstance(text, str) else text)
        except NoTimeToTrainError:
            # Of who makes the parts.
            raise
        except OSError as error:
            raise _cannot_write(path, error) from error


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, wholly or not at all.

    Raises:
        OutputError: The file cannot be written, for instance because the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise _cannot_write(path, error) from error


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, if it is a regular one; links are followed.

    Reading a FIFO, a socket or a terminal may wait forever, and a device may have no end. Use this for every file that
    a user names, or that others may have put into a folder.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened, or is not a regular file; `strerror` says which.

    Examples:
        >>> open_regular(Path("/dev/null"))
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] it is a device, expected a regular file: '/dev/null'
    """
    # Opening alone can rewind a tape or wait for a writer, so that the kind comes first.
    _check_regular(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # Another file may have taken its place since.
        _check_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; see `open_regular`.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        return stream.read()


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        error = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(error, f"it is {kind}, expected a regular file", str(path))


def without_home(text: str) -> str:
    """Put `~` in the place of the home folder: what is printed ends up in logs and reports that others read.

    Examples:
        >>> without_home(f"{Path.home()}/photos: 3 images")
        '~/photos: 3 images'
    """
    home = os.environ.get("HOME", "").rstrip("/")
    # Where a path begins, and not within another one.
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}/", "~/", text) if home else text


def in_home(path: str) -> str:
    """Put the home folder in the place of `~` at the beginning of a path; the reverse of `without_home`.

    Examples:
        >>> in_home("~/photos") == f"{Path.home()}/photos", in_home("a/~/b"), in_home("~a")
        (True, 'a/~/b', '~a')
    """
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


def remove_file(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot remove {path}: {error.strerror or error}", remedy="name a folder that you may write to"
        ) from error


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Name the file that there is no room for; writers of other libraries have errors of their own for that."""
    try:
        yield
    except Exception as error:
        told = _no_room_in(error)
        if told is None or isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {path}: {os.strerror(told)}", remedy=_NO_ROOM[told]) from error


def _no_room_in(error: BaseException | None) -> int | None:
    """Return the number of the system's error for lack of room that an error is, or was raised after."""
    while error is not None:
        code = getattr(error, "errno", None)
        told = [number for number in _NO_ROOM if number == code or os.strerror(number) in str(error)]
        if not told and code is None and _CUT_BY_NUMPY.fullmatch(str(error)):
            told = [errno.ENOSPC]
        if told:
            return told[0]
        error = error.__cause__ or error.__context__
    return None


def _check_target(path: Path) -> None:
    if is_address(path):
        raise OutputError(f"cannot write {_as_given(path)}: it is not a path on this machine", remedy=_ONLY_LOCAL)


def _as_given(path: Path | str) -> str:
    """Return an address as the user wrote it: `Path` takes one of its two slashes."""
    return str(path) if isinstance(path, str) else re.sub(r"^([^/]+:)/?", r"\1//", str(path))


def _sync(path: Path) -> None:
    """Have the file's bytes, or the folder's entries, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    remedy = _NO_ROOM.get(error.errno or 0, "name a file in a folder that you may write to")
    return OutputError(f"cannot write {path}: {error.strerror or error}", remedy=remedy)
