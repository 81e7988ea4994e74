"""The images that are meant by the paths that a user names."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from no_time_to_train.data.image_files import list_images, real_path
from no_time_to_train.data.images import image_size, load_stamped_image
from no_time_to_train.data.named.videos import VIDEO_ENDINGS, Video, open_video
from no_time_to_train.errors import ConfigError, DataNotFoundError, ImageReadError, OutputError
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.io.paths import open_regular
from no_time_to_train.io.stale_files import folder_lock, unfinished_name

T = TypeVar("T")


@dataclass(frozen=True)
class InputImage:
    """An image to look at: a file, or a frame of a video.

    Attributes:
        path: The file, of a frame the video's.
        name: How it is called in results: its path within the folder that `common_folder` returns, with `/` between; of
            a frame as if the video were a folder of PNG files, such as `clip.mp4/000120.png`.
        video: The video that it is a frame of.
        frame: The frame's index, from 0.
        fault: Why it cannot be read, if that is known already.
    """

    path: Path
    name: str
    video: Video | None = None
    frame: int = 0
    fault: ImageReadError | None = None

    def load(self) -> tuple[Image.Image, FileStamp]:
        """Return the image in 8-bit RGB, the right way up, and the stamp of the file that it is from.

        Raises:
            ImageReadError: It cannot be read.
        """
        if self.fault is not None:
            raise self.fault
        if self.video is None:
            return load_stamped_image(self.path)
        return self.video.read(self.frame), self.video.stamp

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels.

        Raises:
            ImageReadError: It cannot be read.
        """
        return image_size(self.path) if self.video is None else self.video.size

    def has_content(self, stamp: FileStamp) -> bool:
        """Return whether a stamp is of the image's content; of a video, the content when its frames were listed.

        Raises:
            OSError: The file is not there, or cannot be read.
        """
        return stamp.same_content(self.path) if self.video is None else stamp.sha256 == self.video.stamp.sha256

    def frame_record(self) -> dict[str, Any] | None:
        """Return what results say of a frame: name of the video, index and time; None of an image file."""
        if self.video is None:
            return None
        name = self.name.rpartition("/")[0]
        return {"video": name, "frame_index": self.frame, "seconds": self.video.seconds[self.frame]}


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


def find_images(paths: Sequence[Path], *, but: Path | None = None, every: int | None = None) -> list[InputImage]:
    """Find the images that paths name: files as they are, of folders what `list_images` lists, and frames of videos.

    They come in the order of the paths. Videos count where they are named; those in folders do not.

    Each real file comes once, by the first of its names. What cannot be read, folders included, is among them.

    Args:
        paths: Files and folders.
        but: Of folders, what is in this folder is left out: the pictures that an earlier run drew.
        every: Of videos, look at every `every`-th frame; at about one a second if it is None.

    Raises:
        DataNotFoundError: A path is not there, or there is no image in a folder.
        MissingExtraError: A video is named, and PyAV is not installed.
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
        elif path.suffix.lower() in VIDEO_ENDINGS and path.exists():
            frames = _frames_of(path, _name_in(root, path, path), every)
            images = {f"{real_path(path)}/{image.name}": image for image in frames}
        elif path.exists():
            images = {real_path(path): InputImage(path, _name_in(root, path, path))}
        else:
            raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
        for real, image in images.items():
            found.setdefault(real, image)
    return list(found.values())


@contextmanager
def image_files(images: Sequence[tuple[InputImage, FileStamp]], folder: Path) -> Iterator[list[tuple[Path, FileStamp]]]:
    """Give the file of each image; frames of videos are written as PNG files, which are removed when the block ends.

    Args:
        images: With the stamp of what was looked at.
        folder: Where frames are written, in a hidden folder.

    Yields:
        Files and their stamps, in the images' order.

    Raises:
        DataNotFoundError: A video is another one by now.
        ImageReadError: A frame cannot be read any more.
        OutputError: A frame cannot be written.
    """
    hidden = folder / unfinished_name(Path("frames"))
    with ExitStack() as stack:
        files = []
        for number, (image, stamp) in enumerate(images):
            if image.video is None:
                files.append((image.path, stamp))
                continue
            if not image.has_content(stamp):
                raise DataNotFoundError(
                    f"{image.path} was written to after it was looked at", remedy="run the same command again"
                )
            picture, _ = image.load()
            try:
                if not hidden.exists():
                    stack.enter_context(folder_lock(folder))
                    stack.callback(shutil.rmtree, hidden, ignore_errors=True)
                    hidden.mkdir()
                path = hidden / f"{number:06}.png"
                picture.save(path)
            except OSError as error:
                raise OutputError(
                    f"cannot write frames to {folder}: {error.strerror or error}", remedy="check the disk"
                ) from error
            with open_regular(path) as written:
                files.append((path, FileStamp.of(written)))
        yield files


def _frames_of(path: Path, name: str, every: int | None) -> list[InputImage]:
    """Return frames of a video; if something is wrong with it, the video itself comes last, and says so."""
    try:
        video = open_video(path, every)
    except ImageReadError as error:
        return [InputImage(path, name, fault=error)]
    frames = [InputImage(path, f"{name}/{index:06}.png", video, index) for index in video.frames]
    return frames if video.fault is None else [*frames, InputImage(path, name, fault=video.fault)]


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
