"""Which images are meant by the paths that a user names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from no_time_to_train.errors import ConfigError, DataNotFoundError

# Photographs that Pillow cannot read as it comes. They are named at the end of a run, not passed over in silence.
_OTHER_ENDINGS = frozenset({".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"})


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


def find_images(paths: Sequence[Path], *, but: Path | None = None) -> list[InputImage]:
    """Find the images that paths name: files as they are, and of folders all images within, in order of their names.

    Args:
        paths: Files and folders.
        but: Of folders, what lies in this folder is left out: the pictures that an earlier run drew.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        ConfigError: Two images have one name.
    """
    endings = Image.registered_extensions().keys() | _OTHER_ENDINGS
    drawn = None if but is None else but.resolve()
    found: dict[str, InputImage] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file())
            if drawn is not None:
                inside = [file for file in inside if not file.resolve().is_relative_to(drawn)]
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
