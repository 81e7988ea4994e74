"""Write files so that they appear whole or not at all: under a temporary name, synced to the disk, then renamed."""

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from no_time_to_train.errors import NoTimeToTrainError, OutputError
from no_time_to_train.io.paths import ONLY_LOCAL, as_given, is_address
from no_time_to_train.io.stale_files import folder_lock, replaced_name, unfinished_name

# What ends writing for lack of room: a full disk, a full quota, and the largest file that `ulimit -f` allows.
NO_ROOM = {
    errno.ENOSPC: "make room, or name a folder on another disk",
    errno.EDQUOT: "make room, or name a folder on another disk",
    errno.EFBIG: "raise the limit that ulimit -f shows, or name a folder on a file system that takes larger files",
}
# What systems answer on file systems without hard links, such as FAT.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# NumPy's `tofile` does not say why it could not write all.
_CUT_BY_NUMPY = re.compile(r"\d+ requested and \d+ written")


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well.

    The temporary file exists and is empty when the block begins, so that a folder that cannot be written to is known
    before the work is done rather than after it. On success it is synced and renamed onto `path`; if the block
    raises, it is removed and an older file at `path` stays as it was; if the process is killed, the next one that
    writes into the folder removes it.

    Args:
        path: The file to write; its parent folders are made. A symbolic link is followed, not replaced.
        replace: Replace an older file; without it, one that another process has made meanwhile stays.

    Yields:
        A path in the same folder and with the same suffix, since some writers choose the format by the suffix.

    Raises:
        OutputError: `path` is a folder, or its folder cannot be made or written to, or the disk is full; or there is
            a file, which is not to be replaced.

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
            stack.enter_context(folder_lock(target.parent))
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
            if replace:
                temporary.replace(target)
            else:
                _move_to_free(temporary, target)
            _sync(target.parent)
        except FileExistsError as error:
            raise is_taken(path) from error
        except OSError as error:
            raise _cannot_write(path, error) from error


@contextmanager
def atomic_folder(root: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a new folder beside `root` that takes its place when the block ends well.

    A folder that stood there is removed then. If the block raises, the new folder is removed and the old one stays; if
    the process is killed, the next one that writes beside it removes the new one.

    Args:
        root: The folder to write; its parents are made.
        replace: Replace an older folder; without it, one that is not empty stays.

    Yields:
        An empty folder beside `root`.

    Raises:
        OutputError: The parent cannot be made or written to, or the disk is full; or there is a folder that is not
            empty, which is not to be replaced.
    """
    _check_target(root)
    beside = root.with_name(unfinished_name(root))
    with ExitStack() as stack:
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder_lock(root.parent))
            beside.mkdir()
        except OSError as error:
            raise OutputError(
                f"cannot write beside {root}: {error}", remedy="name a folder that you may write to"
            ) from error
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        with _room_for(root):
            yield beside
        put_in_place(beside, root, replace=replace)


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
            stack.enter_context(folder_lock(folder))
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


def put_in_place(new: Path, root: Path, *, replace: bool = True) -> None:
    """Move a whole folder to where another one may stand, which is removed.

    On Linux the two change places in one step. Elsewhere there is for a moment no folder, never half of one; if the
    process is killed then, the next one that writes there puts the old folder back.

    Args:
        new: A folder on the file system of `root`.
        root: Where it goes.
        replace: Replace a folder that is not empty.

    Raises:
        OutputError: The folders cannot be moved, or one is not to be replaced.
    """
    try:
        for path in new.rglob("*"):
            _sync(path)
        _sync(new)
        with folder_lock(root.parent):
            old = _swap(new, root) if replace and root.exists() else None
            if old is None:
                new.rename(root)
            _sync(root.parent)
    except OSError as error:
        if not replace and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise is_taken(root) from error
        raise OutputError(
            f"cannot put a folder at {root}: {error.strerror or error}",
            remedy="name a folder in one that you may write to, and that is not a mount point",
        ) from error
    # The new one is in place, whatever becomes of the old.
    if old is not None:
        remove_folder(old, beside=root)


def is_taken(path: Path) -> OutputError:
    """Return the error for a file or folder that stands where a new one is to go."""
    return OutputError(f"{path} is there already", remedy="name a new one, or remove it first")


def refuse_others(folder: Path, own: re.Pattern[str], what: str) -> None:
    """Refuse to replace a folder in which there is a file of somebody else.

    Args:
        folder: The folder, which may be missing.
        own: What the paths within it of files that may be lost match; hidden files may be too.
        what: What these files are, for the message.

    Raises:
        OutputError: There is another file.
    """
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).as_posix()
        if not path.is_dir() and not own.fullmatch(inner) and not path.name.startswith("."):
            raise OutputError(
                f"{folder} is to be written anew and holds {inner}, which is not of {what} and would be lost",
                remedy="move it away, or name a new or an empty folder",
            )


def _move_to_free(temporary: Path, target: Path) -> None:
    """Rename a file to a name that no other file has, also not one made a moment ago by another process.

    Raises:
        FileExistsError: There is one.
    """
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Between these two lines another process can still make the file.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        temporary.replace(target)


def remove_folder(folder: Path, *, beside: Path | None = None) -> None:
    """Remove a folder so that nobody finds half of it; one that cannot be removed stays.

    Args:
        folder: What to remove.
        beside: Where what is left of it lies if the process is killed; where the folder was if None.
    """
    place = beside or folder
    with suppress(OSError), folder_lock(place.parent):
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
        raise OutputError(f"cannot write {path}: {os.strerror(told)}", remedy=NO_ROOM[told]) from error


def _no_room_in(error: BaseException | None) -> int | None:
    """Return the number of the system's error for lack of room that an error is, or was raised after."""
    while error is not None:
        code = getattr(error, "errno", None)
        told = [number for number in NO_ROOM if number == code or os.strerror(number) in str(error)]
        if not told and code is None and _CUT_BY_NUMPY.fullmatch(str(error)):
            told = [errno.ENOSPC]
        if told:
            return told[0]
        error = error.__cause__ or error.__context__
    return None


def _check_target(path: Path) -> None:
    if is_address(path):
        raise OutputError(f"cannot write {as_given(path)}: it is not a path on this machine", remedy=ONLY_LOCAL)


def _sync(path: Path) -> None:
    """Have the file's bytes, or the folder's entries, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    remedy = NO_ROOM.get(error.errno or 0, "name a file in a folder that you may write to")
    return OutputError(f"cannot write {path}: {error.strerror or error}", remedy=remedy)
