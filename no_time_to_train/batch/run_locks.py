"""Locks that keep two runs out of one folder of results."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from no_time_to_train.errors import OutputError

# What systems answer on file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

_PREFIX = ".ntt-lock."


def is_lock(name: str) -> bool:
    """Return whether a file of this name is a lock, held or left by a killed process."""
    return name.startswith(_PREFIX)


@contextmanager
def sole_run(folder: Path, kind: str, *, remedy: str, share: str = "") -> Iterator[None]:
    """Hold a folder of results for one run, so that what it holds is never of two runs at once.

    The folder has a hidden file meanwhile, such as `.ntt-lock.ntt-predict`. The system releases the lock however the
    process ends; the file that a killed process leaves is used and removed by the next run. On a file system without
    locks no run is refused.

    Args:
        folder: Where the run writes; made if it is missing, with its parents, and removed at the end if nothing was
            written.
        kind: The kind of run, such as `ntt predict`. Runs of different kinds may share a folder.
        remedy: What a user whose run is refused can do.
        share: The run does this share of the work, such as `2/4`: others may do other shares meanwhile, and none may do
            the whole.

    Raises:
        OutputError: Another process holds the folder, or it cannot be written to.
    """
    if share:
        with (
            _held(folder, kind, remedy, shared=True),
            _held(folder, f"{kind} {share.replace('/', '-of-')}", remedy, shared=False),
        ):
            yield
    else:
        with _held(folder, kind, remedy, shared=False):
            yield


@contextmanager
def _held(folder: Path, kind: str, remedy: str, *, shared: bool) -> Iterator[None]:
    path = folder / f"{_PREFIX}{kind.replace(' ', '-')}"
    # The deepest first: in this order they are removed.
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except BlockingIOError as error:
        raise OutputError(f"another {kind} is writing to {folder}", remedy=remedy) from error
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", remedy="name a folder that you may write to"
        ) from error
    try:
        yield
    finally:
        # Removed while the lock is held: a process that has opened the file by now sees that its name is gone.
        try:
            _remove(path, descriptor)
        finally:
            _remove(path, descriptor)  # a signal may have come before the first call had done it
            os.close(descriptor)
        with suppress(OSError):  # One with content stays.
            for place in made:
                place.rmdir()


def _remove(path: Path, descriptor: int) -> None:
    """Remove a lock, unless it is gone, is another process's by now, or is shared with one."""
    with suppress(OSError):
        _lock(descriptor, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()


def _lock(descriptor: int, kind: int) -> None:
    """Lock a file, where its file system has locks.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _open_locked(path: Path, kind: int) -> int:
    """Return the descriptor of a file that this process has locked and that still has this name.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: It cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            _lock(descriptor, kind)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
