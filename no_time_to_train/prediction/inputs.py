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
        name: How it is called in results: its path within the folder that `common_folder` returns, with `/` between.
    """

    path: Path
    name: str

    def stamp(self) -> list[int]:
        """Return size and time of change, by which it is told whether the file is still the same."""
        stat = self.path.stat()
        return [stat.st_size, stat.st_mtime_ns]


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
    """Find the images that paths name: files as they are, and of folders all images within, in order of their names.

    Args:
        paths: Files and folders.
        but: Of folders, what lies in this folder is left out: the pictures that an earlier run drew.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        ConfigError: The paths are on several drives.
    """
    root = common_folder(paths)
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
            images = [InputImage(file, _name_in(root, path, file)) for file in inside]
        elif path.exists():
            images = [InputImage(path, _name_in(root, path, path))]
        else:
            raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
        for image in images:
            found.setdefault(image.name, image)
    return list(found.values())


def _folder_of(path: Path) -> str:
    """Return the real path of a folder, or of the folder that a file is in."""
    return os.path.realpath(path if path.is_dir() else path.parent)


def _name_in(root: Path, named: Path, file: Path) -> str:
    """Return the path within a folder of a file, which was named or is in a folder that was named."""
    inner = file.relative_to(named) if named.is_dir() else Path(file.name)
    return (Path(_folder_of(named)).relative_to(root) / inner).as_posix()
