"""What killed processes left half-written: told by its name, and removed by the next process that writes there.

Whoever writes holds a lock on the folder that it writes into, which the system takes back however the process ends. As
long as anybody holds it, nothing there is taken for left over.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{12}\.ntt-(?P<state>unfinished|replaced)(\.[^.]+)?", re.DOTALL)
# Most bytes of the target's name that go into another one, of the 255 that file systems take.
_LONGEST = 150
# Folders by device and inode: one look in each is enough, since a process removes what it begins itself.
_seen: set[tuple[int, int]] = set()


def unfinished_name(target: Path) -> str:
    """Return a name for what will be `target`, with the same suffix, since some writers choose the format by it."""
    stem = target.stem.encode(errors="surrogateescape")[:_LONGEST].decode(errors="ignore")
    return f".{stem}.{secrets.token_hex(6)}.ntt-unfinished{target.suffix}"


def replaced_name(target: Path) -> str:
    """Return a name for the folder that stood at `target`, until another one stands there."""
    return f".{target.name}.{secrets.token_hex(6)}.ntt-replaced"


def is_unfinished(name: str) -> bool:
    """Return whether a file or folder is half-written, or was and is left over."""
    return _NAME.fullmatch(name) is not None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder while something unfinished is in it; what killed processes left there goes before.

    A process looks for that once in each folder. Where the file system knows no locks, as some network file systems,
    nothing is removed.

    Args:
        folder: Is there.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        stat = os.fstat(descriptor)
        if (stat.st_dev, stat.st_ino) not in _seen and _remove(folder, descriptor):
            _seen.add((stat.st_dev, stat.st_ino))
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def remove_left_over(folder: Path) -> bool:
    """Remove what killed processes left in a folder.

    Returns:
        Whether it was looked for: not while anybody writes there, and not where there are no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return _remove(folder, descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match:
                _put_right(Path(entry.path), folder / match["target"], whole=match["state"] == "replaced")
    return True


def _put_right(left: Path, target: Path, *, whole: bool) -> None:
    """Remove what is left over; a whole folder goes back to where nothing has taken its place."""
    with suppress(OSError):
        if whole and not os.path.lexists(target):
            left.rename(target)
        elif left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
