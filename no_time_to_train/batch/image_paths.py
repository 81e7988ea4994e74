"""Which images are meant by the paths that a user names."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from no_time_to_train.data.image_files import list_images, real_path
from no_time_to_train.errors import ConfigError, DataNotFoundError

T = TypeVar("T")


@dataclass(frozen=True)
class InputImage:
    """An image to look at.

    Attributes:
        path: Where it is.
        name: How it is called in results: its path within the folder that `common_folder` returns, with `/` between.
    """

    path: Path
    name: str


def common_folder(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all that paths name: images are called by their paths within it.

    Args:
        paths: Files and folders. A folder holds itself.

    Raises:
        DataNotFoundError: There are no paths.
        ConfigError: No folder holds all: they are on several drives.
    """
    if not paths:
        raise DataNotFoundError("no images are named", remedy="name a folder that holds JPEG or PNG files")
    try:
        return Path(os.path.commonpath([_folder_of(path) for path in paths]))
    except ValueError as error:
        raise ConfigError(
            f"the images are on several drives: {', '.join(map(str, paths[:5]))}", remedy="run once for each drive"
        ) from error


def find_images(paths: Sequence[Path], *, but: Path | None = None) -> list[InputImage]:
    """Find the images that paths name: files as they are, and of folders what `list_images` lists, in that order.

    Each real file comes once, by the first of its names. What cannot be read, folders included, is among them.

    Args:
        paths: Files and folders.
        but: Of folders, what is in this folder is left out: the pictures that an earlier run drew.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        ConfigError: The paths are on several drives.
    """
    root = common_folder(paths)
    found: dict[str, InputImage] = {}
    for path in paths:
        if path.is_dir():
            inside = list_images(path, skip=but)
            if not inside:
                raise DataNotFoundError(f"no images in {path}", remedy="name a folder that holds JPEG or PNG files")
            images = {real: InputImage(file, _name_in(root, path, file)) for real, file in inside.items()}
        elif path.exists():
            images = {real_path(path): InputImage(path, _name_in(root, path, path))}
        else:
            raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
        for real, image in images.items():
            found.setdefault(real, image)
    return list(found.values())


def _folder_of(path: Path) -> str:
    """Return the real path of a folder, or of the folder that a file is in."""
    return real_path(path if path.is_dir() else path.parent)


def _name_in(root: Path, named: Path, file: Path) -> str:
    """Return the path within a folder of a file, which was named or is in a folder that was named.

    A named folder is listed itself if it cannot be opened; it is called by its name then.
    """
    if named.is_dir() and file == named:
        return named.name
    inner = file.relative_to(named) if named.is_dir() else Path(file.name)
    return (Path(_folder_of(named)).relative_to(root) / inner).as_posix()


def share_of(images: Sequence[T], share: str) -> list[T]:
    """Return one share of images, for processes that do a part each.

    Args:
        images: All of them.
        share: `2/4` for every fourth one from the second on.

    Raises:
        ConfigError: It is not two whole numbers, the first from 1 to the second.

    Examples:
        >>> share_of(["a", "b", "c", "d", "e"], "2/4"), share_of(["a", "b"], "2/2")
        (['b'], ['b'])
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", share)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(
            f"shard is {share!r:.40}, expected I/N with I from 1 to N",
            remedy="2/4 looks at every fourth image from the second on",
        )
    return list(images[int(found[1]) - 1 :: int(found[2])])
