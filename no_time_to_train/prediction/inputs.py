"""Which images are meant by the paths that a user names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from no_time_to_train.errors import ConfigError, DataNotFoundError


@dataclass(frozen=True)
class InputImage:
    """An image to look at.

    Attributes:
        path: Where it is.
        name: By what it is called in results: its path within the folder that was named, with `/` between.
    """

    path: Path
    name: str

    def stamp(self) -> list[int]:
        """Return size and time of change, by which it is told whether the file is still the same."""
        stat = self.path.stat()
        return [stat.st_size, stat.st_mtime_ns]


def find_images(paths: Sequence[Path], *, apart: Path | None = None) -> list[InputImage]:
    """Find the images that paths name: files as they are, and of folders all images within, in order of their names.

    Args:
        paths: Files and folders.
        apart: A folder whose images are left out where it lies within a folder that is named: an earlier run drew them.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        ConfigError: Two images have one name.
    """
    endings = Image.registered_extensions()
    found: dict[str, InputImage] = {}
    for path in paths:
        if path.is_dir():
            own = _place_within(path, apart)
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in endings
                and file.is_file()
                and (own is None or own not in file.relative_to(path).parents)
            )
            if not inside:
                raise DataNotFoundError(f"no images in {path}", remedy="name a folder that holds JPEG or PNG files")
            images = [InputImage(file, file.relative_to(path).as_posix()) for file in inside]
        elif path.exists():
            images = [InputImage(path, path.name)]
        else:
            raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
        for image in images:
            other = found.setdefault(image.name, image)
            if os.path.realpath(other.path) != os.path.realpath(image.path):
                raise ConfigError(
                    f"{other.path} and {image.path} would both be called {image.name}",
                    remedy="name the folder above both, or run twice",
                )
    return list(found.values())


def _place_within(folder: Path, other: Path | None) -> Path | None:
    """Return the path from a folder to one below it; None where the other one is elsewhere, or the folder itself."""
    if other is None:
        return None
    real, below = Path(os.path.realpath(folder)), Path(os.path.realpath(other))
    return below.relative_to(real) if real in below.parents else None
