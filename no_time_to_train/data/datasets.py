"""Read references and targets with their pixels, by index, as loaders of torch or plain loops take them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from no_time_to_train.data.coco import ImageRecord
from no_time_to_train.data.images import load_image, load_stamped_image
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.records import MOST_BEYOND
from no_time_to_train.data.references import Reference
from no_time_to_train.errors import AnnotationError, ImageSizeError
from no_time_to_train.io.file_stamps import FileStamp

# Part of a reference's mask that may be outside its box: where boxes are drawn by hand, they cut off some.
_MOST_OUTSIDE = 0.1


@dataclass
class ReferenceItem:
    """A reference with its pixels.

    Attributes:
        index: Place among all references, the same on every process.
        reference: What the annotation says.
        image: RGB.
        mask: The object; None where only its box is known.
    """

    index: int
    reference: Reference
    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"] | None

    @property
    def name(self) -> str:
        """The name that error messages use."""
        return f"annotation {self.reference.annotation.id} in {self.reference.image.file_name}"


@dataclass
class TargetItem:
    """A target image.

    Attributes:
        index: Place among all targets, the same on every process.
        record: Its id, name and size.
        image: RGB.
        stamp: Of the content that was read, where the dataset was asked for it.
    """

    index: int
    record: ImageRecord
    image: UInt8[np.ndarray, "H W 3"]
    stamp: FileStamp | None = None


class ReferenceDataset:
    """Reads references and their masks."""

    def __init__(self, references: Sequence[Reference], images: Path) -> None:
        self.references = references
        self.images = images

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int) -> ReferenceItem:
        reference = self.references[index]
        record, annotation = reference.image, reference.annotation
        image = _read(self.images, record)
        mask = None
        if annotation.segmentation is not None:
            mask = decode_mask(annotation, record.height, record.width)
            _check_in_box(mask, reference)
        return ReferenceItem(index, reference, image, mask)


class TargetDataset:
    """Reads target images.

    Args:
        records: Of the images.
        images: The folder to which their names are relative.
        stamped: Take a stamp of each image's content as it is read.
    """

    def __init__(self, records: Sequence[ImageRecord], images: Path, *, stamped: bool = False) -> None:
        self.records = records
        self.images = images
        self.stamped = stamped

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> TargetItem:
        record = self.records[index]
        if not self.stamped:
            return TargetItem(index, record, _read(self.images, record))
        image, stamp = load_stamped_image(self.images / record.file_name)
        return TargetItem(index, record, _checked(np.array(image), self.images, record), stamp)


def _check_in_box(mask: Bool[np.ndarray, "H W"], reference: Reference) -> None:
    """Refuse a mask that is largely outside its box: what is cut out around the box would hold a part of it.

    Raises:
        AnnotationError: It is.
    """
    x, y, width, height = reference.annotation.bbox
    left, top = max(math.floor(x) - MOST_BEYOND, 0), max(math.floor(y) - MOST_BEYOND, 0)
    right, bottom = math.ceil(x + width) + MOST_BEYOND, math.ceil(y + height) + MOST_BEYOND
    whole, inside = int(mask.sum()), int(mask[top:bottom, left:right].sum())
    if whole - inside > _MOST_OUTSIDE * whole:
        raise AnnotationError(
            f"{whole - inside} of {whole} pixels of the mask of annotation {reference.annotation.id} in "
            f"{reference.image.file_name} are outside its box {[x, y, width, height]}",
            remedy="correct the box, which is x, y, width and height in pixels, or the mask",
        )


def _read(folder: Path, record: ImageRecord) -> UInt8[np.ndarray, "H W 3"]:
    return _checked(np.array(load_image(folder / record.file_name)), folder, record)


def _checked(image: UInt8[np.ndarray, "H W 3"], folder: Path, record: ImageRecord) -> UInt8[np.ndarray, "H W 3"]:
    """Refuse an image of another size than its record says.

    Raises:
        ImageSizeError: It is of another size.
    """
    if image.shape[:2] != (record.height, record.width):
        raise ImageSizeError(
            f"{folder / record.file_name} is {image.shape[0]}x{image.shape[1]} pixels high and wide, its annotations "
            f"say {record.height}x{record.width}",
            remedy="give the images that were annotated; annotations count EXIF orientation as applied",
        )
    return image
