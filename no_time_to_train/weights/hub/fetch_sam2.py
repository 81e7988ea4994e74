"""Fetching a file of SAM2, which stands alone: no folder, no configuration beside it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from no_time_to_train.configs.sam2_releases import Sam2File
from no_time_to_train.errors import OutputError
from no_time_to_train.weights.http.download import Digest, Retries, download
from no_time_to_train.weights.hub.progress import FetchDisplay
from no_time_to_train.weights.hub.sources import plan_link
from no_time_to_train.weights.hub.staging import check_room, fetch_lock, staging_for


def fetch_sam2(file: Sam2File, url: str, path: Path, *, display: FetchDisplay, retries: Retries) -> bool:
    """Fetch a file of SAM2, unless it is there and whole.

    Args:
        file: Which one.
        url: Where from.
        path: Where to; appears in one step, once the hash is checked.
        display: Shows what is done.
        retries: When to try again.

    Returns:
        Whether it was there.

    Raises:
        FetchError: What the server answers, or that it cannot be reached.
        OutputError: Something else is there, or the folder cannot be written.
    """
    digest = Digest("sha256", file.sha256)
    with fetch_lock(path, display):
        if _is_there(path, digest):
            return True
        plan = plan_link(url, retries=retries)
        wanted = replace(plan.files[0], digest=digest, version=file.sha256, etag="")
        plan = replace(plan, files=(wanted,), revision=file.sha256)
        staging = staging_for(path, plan)
        check_room(staging, plan)
        display.announce(f"{plan.source} (Apache-2.0) -> {path}")
        display.begin(wanted.name, wanted.size)
        whole = download(wanted, staging, advance=display.advance, retries=retries)
        # Somebody may have put something there in the meantime.
        if not _is_there(path, digest):
            _put(whole, path)
        shutil.rmtree(staging)
    return False


def _is_there(path: Path, digest: Digest) -> bool:
    """Return whether the whole file is there.

    Raises:
        OutputError: Something else is.
    """
    if not os.path.lexists(path):
        return False
    try:
        fits = path.is_file() and digest.fits(path)
    except OSError as error:
        raise OutputError(
            f"{path} may not be read: {error.strerror or error}", remedy="check its permissions"
        ) from error
    if not fits:
        raise OutputError(
            f"{path} is not the released file: expected the sha256 {digest.value}",
            remedy="move it away and run this again, or name another folder with --root",
        )
    return True


def _put(whole: Path, path: Path) -> None:
    try:
        whole.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", remedy="name a folder that you may write to"
        ) from error
