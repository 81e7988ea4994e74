"""Writing files so that nobody ever sees half of one: written beside, synced, renamed."""

import ctypes
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from no_time_to_train.errors import NoTimeToTrainError, OutputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well.

    The temporary file exists and is empty when the block begins, so that a folder that cannot be written to is known
    before the work is done rather than after it. On success it is synced and renamed onto `path`; if the block
    raises, it is removed and an older file at `path` stays as it was.

    Args:
        path: The file to write; its parent folders are made. A symbolic link is followed, not replaced.

    Yields:
        A path in the same folder and with the same suffix, since some writers choose the format by the suffix.

    Raises:
        OutputError: `path` is a folder, or its folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), [p.name for p in target.parent.iterdir()]
        ('whole', ['a.txt'])
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix}")
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        try:
            # Some writers, safetensors' among them, leave a file that its owner alone may read.
            temporary.chmod(mode)
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """Give a new folder beside `root` that takes its place when the block ends well.

    A folder that stood there is removed then. If the block raises, the new folder is removed and the old one stays.

    Args:
        root: The folder to write; its parents are made.

    Yields:
        An empty folder beside `root`.

    Raises:
        OutputError: The parent cannot be made or written to.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
    except OSError as error:
        raise OutputError(
            f"cannot write beside {root}: {error}", remedy="name a folder that you may write to"
        ) from error
    try:
        yield beside
        beside.chmod(0o755)
        put_in_place(beside, root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put_in_place(new: Path, root: Path) -> None:
    """Move a whole folder to where another one may stand, which is removed.

    On Linux the two change places in one step. Elsewhere there is for a moment no folder, never half of one.

    Args:
        new: A folder on the file system of `root`.
        root: Where it goes.

    Raises:
        OutputError: The folders cannot be moved.
    """
    try:
        for path in new.iterdir():
            _sync(path)
        _sync(new)
        if not root.exists():
            new.rename(root)
        elif not _exchange(new, root):
            old = root.with_name(f".{root.name}.{secrets.token_hex(6)}")
            root.rename(old)
            try:
                new.rename(root)
            except OSError:
                old.rename(root)
                raise
            new = old
        _sync(root.parent)
    except OSError as error:
        raise OutputError(
            f"cannot put a folder at {root}: {error.strerror or error}",
            remedy="name a folder in one that you may write to, and that is no mount point",
        ) from error
    # The new one is in place, whatever becomes of the old.
    shutil.rmtree(new, ignore_errors=True)


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


def _sync(path: Path) -> None:
    """Have the file's bytes, or the folder's entries, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}", remedy="name a file in a folder that you may write to"
    )
