"""Which files of a folder are images: the one rule of `ntt predict`, of the main job and of training."""

import functools
import os
import stat
from collections import deque
from pathlib import Path

from PIL import Image

# HEIC, which Pillow does not know before one is opened; and photographs that cannot be read, which are listed so that
# each is named.
_OTHER_ENDINGS = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
)
# Formats that Pillow recognizes and that are not pictures.
_NO_PICTURES = frozenset({"BUFR", "GRIB", "HDF5", "MPEG"})


@functools.cache
def image_endings() -> frozenset[str]:
    """Return the endings of image files' names, in lower case and with their dot."""
    known = Image.registered_extensions().items()
    return _OTHER_ENDINGS | {ending for ending, kind in known if kind in Image.OPEN and kind not in _NO_PICTURES}


def list_images(folder: Path, *, skip: Path | None = None) -> dict[str, Path]:
    """List the images in a folder and in all folders within it.

    Links to files and to folders are followed. Each real file is listed once, even if several links lead to it, so that
    loops end; a path without links takes precedence over one with links. Names that begin with a dot are left out.

    What cannot be read is listed too: folders that may not be opened, and broken links that may stand for images or
    folders. `load_image` says what is wrong with each.

    Args:
        folder: Where to look.
        skip: A folder whose content is left out.

    Returns:
        Paths that begin with `folder`, sorted, by their real paths.
    """
    endings, skipped = image_endings(), None if skip is None else os.path.realpath(skip)
    found: dict[str, Path] = {}
    entered: set[str] = set()
    # Links come last: what they lead to may be found without them.
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        is_link = not folders
        path = links.popleft() if is_link else folders.popleft()
        real = real_path(path)
        if real in entered or (skipped is not None and Path(real).is_relative_to(skipped)):
            continue
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError:
            if not is_link or _may_matter(path, endings):
                # Of several links that lead to the same missing place, each is named.
                found.setdefault(str(path.absolute()), path)
            continue
        if not is_folder:
            if path.suffix.lower() in endings:
                found.setdefault(real, path)
            continue
        entered.add(real)
        try:
            entries = _sorted_entries(path)
        except OSError:
            found.setdefault(real, path)
            continue
        for entry in entries:
            inside = path / entry.name
            if entry.is_symlink():
                links.append(inside)
            elif _is_folder(entry):
                folders.append(inside)
            elif inside.suffix.lower() in endings:
                found.setdefault(str(Path(real, entry.name)), inside)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def real_path(path: Path) -> str:
    """Return a path without links; one with a link that may not be read, as some of `/proc` may not, stays as it is."""
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path.absolute())


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        # Some file systems do not say of what kind an entry is. Listing it as a folder names it.
        return True


def _may_matter(link: Path, endings: frozenset[str]) -> bool:
    """Return whether a broken link may stand for an image or a folder, rather than for a file of another kind."""
    ending = link.suffix.lower()
    return ending in endings or not any(letter.isalpha() for letter in ending)
