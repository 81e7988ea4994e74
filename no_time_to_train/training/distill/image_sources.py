"""Where images without annotations come from: folders, COCO JSON, the embedded scenes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.image_files import list_images
from no_time_to_train.data.images import load_image
from no_time_to_train.data.synthetic.training_scenes import TrainingScenes
from no_time_to_train.errors import DataNotFoundError


class ImageSource(ABC):
    """Images in an order that stays."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what a user knows an image by."""

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Read an image as RGB.

        Raises:
            ImageReadError: It cannot be read.
        """

    def label(self, index: int) -> int:
        """Return an image's class, -1 where there is none."""
        return -1


class FileImages(ImageSource):
    """Files.

    Args:
        paths: Of the images.
        labels: The class of each, if there are classes.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int] | None = None) -> None:
        self.paths, self.labels = tuple(paths), None if labels is None else tuple(labels)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path."""
        return str(self.paths[index])

    def load(self, index: int) -> Image.Image:
        """Read an image as RGB."""
        return load_image(self.paths[index])

    def label(self, index: int) -> int:
        """Return an image's class, -1 where there is none."""
        return -1 if self.labels is None else self.labels[index]


class SceneImages(ImageSource):
    """The embedded synthetic scenes."""

    def __init__(self, scenes: TrainingScenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.scenes)

    def name(self, index: int) -> str:
        """Return the number of the scene."""
        return f"scene {index}"

    def load(self, index: int) -> Image.Image:
        """Return a scene."""
        return Image.fromarray(np.array(self.scenes.images[index]))


class SubsetImages(ImageSource):
    """Some of another source's images.

    Args:
        source: The other one.
        indices: Which of its images.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, tuple(indices)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return what a user knows an image by."""
        return self.source.name(self.indices[index])

    def load(self, index: int) -> Image.Image:
        """Read an image as RGB."""
        return self.source.load(self.indices[index])

    def label(self, index: int) -> int:
        """Return an image's class, -1 where there is none."""
        return self.source.label(self.indices[index])


def images_in_folders(folders: Sequence[Path], *, labelled: bool = False) -> FileImages:
    """Find the images in folders and the folders within them, as `list_images` does; each real file once in all.

    What cannot be read, folders included, is among them: who loads it gets the error.

    Args:
        folders: Where to look.
        labelled: The first folder below names an image's class.

    Raises:
        DataNotFoundError: A folder is not there, or holds no image.
    """
    found: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataNotFoundError(f"there is no folder {folder}", remedy="name a folder of images")
        inside = list_images(folder)
        if not inside:
            raise DataNotFoundError(
                f"{folder} holds no image, nor do the folders in it", remedy="name one that holds JPEG or PNG files"
            )
        for real, path in inside.items():
            found.setdefault(real, (path, "/".join(path.relative_to(folder).parts[:-1][:1])))
    paths, names = [path for path, _ in found.values()], [name for _, name in found.values()]
    if not labelled:
        return FileImages(paths)
    classes = {name: index for index, name in enumerate(sorted(set(names) - {""}))}
    return FileImages(paths, [classes.get(name, -1) for name in names])


def images_of_coco(json: Path, folder: Path) -> FileImages:
    """Return the images that a COCO JSON names.

    Raises:
        DataNotFoundError: The JSON is not there, or names no image.
        AnnotationError: It is not COCO JSON.
    """
    records = load_coco(json).images
    if not records:
        raise DataNotFoundError(f"{json} names no image", remedy="name another")
    return FileImages([folder / record.file_name for record in records])
