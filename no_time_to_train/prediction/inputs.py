"""Which images are meant by the paths that a user names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from no_time_to_train.data.image_files import list_images
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


def find_images(paths: Sequence[Path], *, but: Path | None = None) -> list[InputImage]:
    """Find the images that paths name: files as they are, and of folders what `list_images` lists, in that order.

    Each real file comes once, by the first of its names. What cannot be read, folders included, is among them.

    Args:
        paths: Files and folders.
        but: Of folders, what is in this folder is left out: the pictures that an earlier run drew.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        ConfigError: Two images have one name.
    """
    found: dict[str, InputImage] = {}
    names: dict[str, InputImage] = {}
    for path in paths:
        if path.is_dir():
            inside = list_images(path, skip=but)
            if not inside:
                raise DataNotFoundError(f"no images in {path}", remedy="name a folder that holds JPEG or PNG files")
            images = {real: InputImage(file, _name_in(path, file)) for real, file in inside.items()}
        elif path.exists():
            images = {os.path.realpath(path): InputImage(path, path.name)}
        else:
            raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
        for real, image in images.items():
            if real in found:
                continue
            other = names.setdefault(image.name, image)
            if other is not image:
                raise ConfigError(
                    f"{other.path} and {image.path} would both be called {image.name}",
                    remedy="name the folder above both, or run twice",
                )
            found[real] = image
    return list(found.values())


def _name_in(folder: Path, file: Path) -> str:
    """Return a path within a folder; of the folder itself, which is listed if it cannot be opened, its name."""
    return folder.name if file == folder else file.relative_to(folder).as_posix()
