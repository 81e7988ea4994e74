"""What lies in a folder that a fetch is to fill, and in the workshop beside it where the files gather."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from no_time_to_train.errors import (
    DiskFullError,
    LocalEntryNotFoundError,
    OutputError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.io.atomic import remove_folder
from no_time_to_train.io.stale_files import remove_left_over
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.hub.manifest import MANIFEST, Manifest, read_manifest
from no_time_to_train.weights.hub.progress import FetchDisplay
from no_time_to_train.weights.hub.sources import FetchPlan, is_of_repository
from no_time_to_train.weights.license import NOTICE_FILE

WORKSHOP = ".ntt-fetch"
# What a fetch puts into a folder beside the weights; the Hub's own tool adds the last three, and marks its folders.
_COMPANIONS = {"config.json", "preprocessor_config.json", MANIFEST, NOTICE_FILE}
_HUB_MARK, _OF_HUB = ".cache", {".cache", "README.md", ".gitattributes"}


@contextmanager
def fetch_lock(folder: Path, display: FetchDisplay) -> Iterator[None]:
    """Keep other processes from fetching into a folder, and wait while one does."""
    workshop = folder.parent / WORKSHOP
    refuse_link(workshop)
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        # The system gives the lock back however a process ends.
        lock = FileLock(workshop / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            display.say(f"waiting for another process that fetches {folder}")
            lock.acquire()
    except OSError as error:
        raise OutputError(
            f"cannot write beside {folder}: {error.strerror or error}", remedy="name a folder that you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def refuse_link(path: Path) -> None:
    """Refuse a link where a fetch has files or folders of its own: what it points to is not the fetch's to change.

    Raises:
        OutputError: It is a link.
    """
    if path.is_symlink():
        raise OutputError(f"{path} is a link, expected what an earlier fetch left there", remedy="remove it")


def check_destination(folder: Path, plan: FetchPlan | None) -> None:
    """Refuse a folder in which something lies that would be lost, and that no fetch brings back.

    Args:
        folder: Where weights are to go.
        plan: What is fetched; None before the network is asked.

    Raises:
        OutputError: It holds another encoder, weights that were not fetched, or other files.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", remedy="name a folder")
    if folder.is_mount() or Path.cwd().is_relative_to(folder):
        what = "a mount point" if folder.is_mount() else "where this command runs"
        raise OutputError(f"{folder} is {what}, and cannot be replaced", remedy="name a folder in it with --root")
    remedy = "name a new folder with --root, or remove this one"
    recorded, damaged = None, False
    try:
        recorded = read_manifest(folder)
    except LocalEntryNotFoundError:
        damaged = True
    if plan is not None and recorded is not None and recorded.source != plan.source:
        if plan.entry is None or recorded.encoder != plan.entry.name:
            raise OutputError(
                f"{folder} holds another encoder, {recorded.encoder or recorded.source}, which would be lost",
                remedy=remedy,
            )
    other = _foreign(folder, recorded)
    if other:
        raise OutputError(
            f"{folder} holds files of its own, which would be lost: {', '.join(other[:5])}", remedy=remedy
        )
    if recorded is None and not damaged and _is_readable(folder):
        raise OutputError(f"{folder} holds weights that were not fetched, which would be lost", remedy=remedy)


def _foreign(folder: Path, recorded: Manifest | None) -> list[str]:
    """Return the names of what no fetch puts into a folder."""
    try:
        paths = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise OutputError(
            f"cannot look into {folder}: {error.strerror}", remedy="name a folder that you may read"
        ) from error
    ours = _COMPANIONS | set(recorded.files if recorded else ()) | (_OF_HUB if _HUB_MARK in paths else set())
    return sorted(
        name
        for name, path in paths.items()
        if not (name in ours or is_of_repository(name)) or (path.is_dir() and name != _HUB_MARK)
    )


def _is_readable(folder: Path) -> bool:
    """Return whether a folder holds a whole file of weights, whatever they are, or one that may not be read."""
    try:
        for path in folder.iterdir():
            if path.is_file():
                path.open("rb").close()
    except OSError:
        return True
    try:
        open_weights(folder, verify=False)
    except (WeightsFormatError, WeightsNotFoundError):
        return False
    return True


def matches_plan(manifest: Manifest, plan: FetchPlan) -> bool:
    """Return whether a manifest records what a plan would fetch."""
    return (manifest.source, manifest.revision) == (plan.source, plan.revision)


def unfinished(folder: Path) -> list[Path]:
    """Return the folders in which files of unfinished fetches into a folder lie."""
    workshop = folder.parent / WORKSHOP
    named = re.compile(re.escape(folder.name) + "@[0-9a-f]{12}")
    if not workshop.is_dir():
        return []
    return [
        path for path in workshop.iterdir() if named.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def remove_replaced(folder: Path, recorded: Manifest) -> None:
    """Remove what stood where a folder stands now, if whoever put that there was killed before removing it.

    Args:
        folder: Holds what was fetched, whole.
        recorded: Its manifest. What was fetched later stays: it is yet to come in its place.
    """
    remove_left_over(folder.parent)
    for path in unfinished(folder):
        with suppress(LocalEntryNotFoundError):
            old = read_manifest(path)
            if old is not None and old.fetched <= recorded.fetched:
                remove_folder(path)


def staging_for(folder: Path, plan: FetchPlan) -> Path:
    """Return the folder in which this plan's files gather; those of other plans for the same folder go."""
    staging = folder.parent / WORKSHOP / f"{folder.name}@{plan.mark}"
    refuse_link(staging)
    try:
        for path in unfinished(folder):
            if path != staging or not _is_taken_up(path, plan):
                shutil.rmtree(path)
        staging.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {staging}: {error}", remedy="name a folder that you may write to") from error
    return staging


def _is_taken_up(staging: Path, plan: FetchPlan) -> bool:
    """Return whether a staging folder can be gone on with; whoever was killed may have left an old folder there."""
    try:
        recorded = read_manifest(staging)
    except LocalEntryNotFoundError:
        return False
    return recorded is None or matches_plan(recorded, plan)


def check_room(staging: Path, plan: FetchPlan) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        DiskFullError: How much is needed, and how much is free.
    """
    held = sum(path.lstat().st_size for path in staging.iterdir() if path.is_file())
    needed, free = plan.size - held, shutil.disk_usage(staging).free
    if needed > free:
        error = DiskFullError(
            f"{plan.source} needs {needed:,} more bytes, and the disk of {staging.parent.parent} has {free:,} free",
            remedy=f"make room for {needed - free:,} bytes, or name a folder on another disk with --root",
        )
        error.errno = errno.ENOSPC
        raise error
