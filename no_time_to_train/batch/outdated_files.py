"""What earlier runs wrote of images that are not looked at any more."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.journal import Journal, read_entry
from no_time_to_train.batch.run import INSTANCES, OVERLAYS, overlay_of
from no_time_to_train.io.atomic import remove_file

_MOST_NAMED = 5


@dataclass(frozen=True)
class LeftOver:
    """An image of an earlier run, and the files of it.

    Attributes:
        name: By what the image was called.
        files: Its entry, and its overlay if there is one.
    """

    name: str
    files: tuple[Path, ...]


def find_left_over(output: Path, images: Sequence[InputImage]) -> list[LeftOver]:
    """Find what earlier runs wrote into a folder of images that are not among these.

    A file counts only if it says itself that it is the entry of an image, and is where that image's entry goes.

    Args:
        output: The folder that was written to.
        images: All that have a result now. What an earlier run wrote of one that cannot be read any more is left over.
    """
    journal, overlays = Journal(output / INSTANCES, "", (), 0.0), os.path.realpath(output / OVERLAYS)
    owned = {journal.path(image) for image in images}
    found = []
    for folder, _, names in os.walk(output / INSTANCES):
        for path in (Path(folder, name) for name in names):
            if path in owned or path.suffix != ".json" or path.is_symlink():
                continue
            with suppress(OSError, ValueError, RecursionError):
                image = InputImage(path, str(read_entry(path)["file_name"]))
                if journal.path(image) == path:
                    drawn = overlay_of(image, output)
                    # Not through a link: what is elsewhere is somebody else's.
                    mine = drawn.is_file() and Path(os.path.realpath(drawn)).is_relative_to(overlays)
                    found.append(LeftOver(image.name, (path, drawn) if mine else (path,)))
    return sorted(found, key=lambda each: each.name)


def remove_left_over_of(output: Path, found: Sequence[LeftOver]) -> None:
    """Remove files of earlier runs, and folders that become empty by it.

    Raises:
        OutputError: A file cannot be removed.
    """
    kinds = (output / INSTANCES, output / OVERLAYS)
    for path in (path for each in found for path in each.files):
        remove_file(path)
        folder = path.parent
        while folder not in kinds:
            try:
                folder.rmdir()
            except OSError:
                break  # It holds something else.
            folder = folder.parent


def told(found: Sequence[LeftOver], *, removed: bool) -> str:
    """Return a line that names the images of earlier runs."""
    names = ", ".join(each.name for each in found[:_MOST_NAMED])
    names += f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    images = "1 image" if len(found) == 1 else f"{len(found)} images"
    if removed:
        return f"removed: what earlier runs wrote of {images} that predictions.json does not have: {names}"
    return (
        f"left over: {INSTANCES}/ and {OVERLAYS}/ have {images} of earlier runs that predictions.json does not have: "
        f"{names} (--clean removes them)"
    )
