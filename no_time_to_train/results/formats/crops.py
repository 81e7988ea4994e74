"""Each instance as a picture of its own, transparent around it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from no_time_to_train.data.images import load_stamped_image
from no_time_to_train.data.masks import box_of_mask
from no_time_to_train.errors import DataNotFoundError
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import by_image
from no_time_to_train.results.formats.names import class_folders, plain_names, shortened, with_ending


def write_crops(folder: Path, dataset: FoundDataset, images: Sequence[tuple[Path, FileStamp]]) -> None:
    """Write `CLASS/IMAGE_NUMBER.png`: the pixels of a mask, cut to its box; the others are transparent black.

    Args:
        folder: Where to.
        dataset: What was found.
        images: The file of each of the dataset's images, in their order, and the stamp of what was looked at.

    Raises:
        DataNotFoundError: An image is another one by now.
        ImageReadError: An image cannot be read any more.
    """
    names = plain_names([image.file_name for image in dataset.images], [".png"])
    folders = class_folders([category.name for category in dataset.categories])
    for (_, instances), (path, stamp), name in zip(by_image(dataset), images, names, strict=True):
        if not instances:
            continue
        picture, now = load_stamped_image(path)
        if now.sha256 != stamp.sha256:
            raise DataNotFoundError(
                f"{path} was written to after it was looked at, and was not put into crops/",
                remedy="run the same command again",
            )
        pixels = np.asarray(picture)
        stem = PurePosixPath(with_ending(name, ""))
        for instance in instances:
            mask = instance.mask()
            x, y, width, height = map(int, box_of_mask(mask))
            part = np.s_[y : y + height, x : x + width]
            crop = np.dstack([pixels[part], np.full((height, width), 255, np.uint8)]) * mask[part][..., None]
            target = folder / folders[instance.class_index] / stem.parent
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop).save(target / shortened(f"{stem.name}_{instance.number}", ".png"))
