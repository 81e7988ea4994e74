"""Records of references, collected from files of any format: each image, class and annotation gets an id."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from no_time_to_train.data.images import image_size
from no_time_to_train.data.masks import box_of_mask, encode_mask
from no_time_to_train.data.records import MOST_BEYOND, Annotation, Category, CocoDataset, ImageRecord, Segmentation
from no_time_to_train.errors import (
    AnnotationError,
    DataNotFoundError,
    EmptyClassError,
    EmptyMaskError,
    ImageSizeError,
    MaskSizeError,
)
from no_time_to_train.io.messages import can_be_written
from no_time_to_train.io.paths import is_file

Box = tuple[float, float, float, float]

# Part of an image's width and height that is left free on each side of the box of a close crop. `python -m
# benchmarks.close_crops` compares others.
CLOSE_CROP_INSET = 0.1
_OUTLINE_POINTS = 64  # of an ellipse: within 0.13 % of its radius


@dataclass(frozen=True)
class LabeledImages:
    """Annotations in one form, whatever the files they were read from.

    Attributes:
        dataset: Images, classes, and annotations, all of which are references; negative ones have `negative` set.
        images: The folder to which the images' file names are relative.
        files: The annotation files and masks that were read, which nothing should be written over.
    """

    dataset: CocoDataset
    images: Path
    files: tuple[Path, ...] = ()


class RecordBuilder:
    """Collects the records of one source.

    Every method that adds something takes the place it comes from, such as `refs/1.json: shapes[2]`, for messages.

    Args:
        root: The folder that was named as the source. Images are looked for in it only, unless `images` is given.
        images: The folder that was named for the images.
    """

    def __init__(self, root: Path, images: Path | None = None) -> None:
        self.base = root if images is None else images
        self._given = images
        self._images: dict[str, ImageRecord] = {}
        self._class_ids: dict[str, int] = {}
        self._annotations: list[Annotation] = []
        # Where each is among the annotations, of those that have several polygons of one group.
        self._groups: dict[Any, int] = {}
        self.files: list[Path] = []

    def find_image(self, name: str, place: str, folders: Sequence[Path]) -> Path:
        """Return the path of the image that an annotation file names.

        Args:
            name: As in the file, with either slash.
            place: Which file, for messages.
            folders: Where to look, unless a folder of images was named.

        Raises:
            AnnotationError: The name leads out of the folder that was named as the source.
            DataNotFoundError: There is no such image.
        """
        remedy = "put it there, or name the folder of the images (images=..., --reference-images DIR)"
        relative = Path(name.replace("\\", "/"))
        tried = [folder / relative for folder in ([self._given] if self._given else folders)]
        if self._given is not None:
            tried.append(self._given / relative.name)
        inside = [path for path in tried if _is_inside(path, self.base)]
        if not inside:
            raise AnnotationError(
                f"{place} names the image {name!r:.120}, which is outside of {self.base}", remedy=remedy
            )
        for path in inside:
            if is_file(path):
                return Path(os.path.normpath(path))
        raise DataNotFoundError(f"{place} names the image {name!r:.120}, which is not in {self.base}", remedy=remedy)

    def image(self, path: Path, place: str, size: tuple[int, int] | None = None) -> ImageRecord:
        """Return the record of an image, the same one for the same path.

        Args:
            path: The image file.
            place: Which file names it, for messages.
            size: Width and height that the annotations say; None if they say none.

        Raises:
            ImageReadError: It cannot be read.
            ImageSizeError: It is of another size.
        """
        name = Path(os.path.relpath(path, self.base)).as_posix()
        if name not in self._images:
            self._images[name] = ImageRecord(len(self._images) + 1, name, *image_size(path))
        record = self._images[name]
        if size is not None and size != (record.width, record.height):
            raise ImageSizeError(
                f"{place}: {path} is {record.width}x{record.height} pixels, its annotations say {size[0]}x{size[1]}",
                remedy="give the images that were annotated; annotations count EXIF orientation as applied",
            )
        return record

    def add_box(self, record: ImageRecord, label: str, box: Box, place: str, *, negative: bool = False) -> None:
        """Add an object of which only the box (x, y, width, height in pixels) is known.

        Raises:
            AnnotationError: A number is not finite, or the box has no area or is not within its image.
        """
        x, y, width, height = box
        if not all(map(math.isfinite, box)) or min(width, height) <= 0:
            raise AnnotationError(
                f"{place}: expected a box of finite numbers with a width and a height above 0, got {_shown(box)}",
                remedy="correct it, or remove it",
            )
        self._check_extent(record, (x, y, x + width, y + height), place)
        self._add(record, label, box, width * height, None, place, negative)

    def add_polygon(
        self,
        record: ImageRecord,
        label: str,
        corners: Sequence[float],
        place: str,
        *,
        negative: bool = False,
        group: Any = None,
    ) -> None:
        """Add an object as a polygon; those of one group, label and image are the parts of one object.

        Args:
            record: Its image.
            label: Its class.
            corners: x0, y0, x1, y1 and so on, in pixels.
            place: For messages.
            negative: It shows what the class is not.
            group: None for an object of one part.

        Raises:
            AnnotationError: A number is not finite, or the polygon is not within its image, or has fewer than three
                corners.
        """
        polygon = [float(value) for value in corners]
        if len(polygon) < 6 or len(polygon) % 2 or not all(map(math.isfinite, polygon)):
            raise AnnotationError(
                f"{place}: expected a polygon of at least three corners (x and y, finite), got {_shown(polygon)}",
                remedy="correct it, or remove it",
            )
        x1, y1, x2, y2 = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
        self._check_extent(record, (x1, y1, x2, y2), place)
        key = (record.id, label, negative, group)
        if group is not None and key in self._groups:
            index = self._groups[key]
            first = self._annotations[index]
            x, y, width, height = first.bbox
            left, top = min(x, x1), min(y, y1)
            box = (left, top, max(x + width, x2) - left, max(y + height, y2) - top)
            assert isinstance(first.segmentation, list)
            parts = [*first.segmentation, polygon]
            self._annotations[index] = Annotation(
                first.id, record.id, first.category_id, box, box[2] * box[3], parts, negative=negative
            )
            return
        self._groups[key] = len(self._annotations)
        box = (x1, y1, x2 - x1, y2 - y1)
        self._add(record, label, box, box[2] * box[3], [polygon], place, negative)

    def add_ellipse(
        self,
        record: ImageRecord,
        label: str,
        center: tuple[float, float],
        radii: tuple[float, float],
        place: str,
        *,
        negative: bool = False,
    ) -> None:
        """Add an object as an upright ellipse or a circle; what of it is outside of the image is cut off."""
        if not all(map(math.isfinite, (*center, *radii))) or min(radii) <= 0:
            raise AnnotationError(
                f"{place}: expected a center and radii above 0, got {_shown((*center, *radii))}",
                remedy="correct it, or remove it",
            )
        self._check_extent(record, (*center, *center), place)
        corners: list[float] = []
        for step in range(_OUTLINE_POINTS):
            angle = 2 * math.pi * step / _OUTLINE_POINTS
            x, y = center[0] + radii[0] * math.cos(angle), center[1] + radii[1] * math.sin(angle)
            corners += [min(max(x, 0.0), float(record.width)), min(max(y, 0.0), float(record.height))]
        self.add_polygon(record, label, corners, place, negative=negative)

    def add_mask(
        self, record: ImageRecord, label: str, mask: Bool[np.ndarray, "H W"], place: str, *, negative: bool = False
    ) -> None:
        """Add an object by its mask, of its image's size.

        Raises:
            MaskSizeError: It is of another size.
            EmptyMaskError: It is empty.
        """
        if mask.shape != (record.height, record.width):
            raise MaskSizeError(
                f"{place}: a mask of {mask.shape[1]}x{mask.shape[0]} pixels for {record.file_name} of "
                f"{record.width}x{record.height}",
                remedy="give each image a mask of its own size",
            )
        if not mask.any():
            raise EmptyMaskError(f"{place}: the mask is empty", remedy="draw the object, or remove the mask")
        self._add(record, label, box_of_mask(mask), float(mask.sum()), encode_mask(mask), place, negative)

    def add_points(
        self,
        record: ImageRecord,
        label: str,
        points: Sequence[tuple[float, float]],
        place: str,
        *,
        negative: bool = False,
    ) -> None:
        """Add an object by points (x and y in pixels) on it.

        Raises:
            AnnotationError: There are none, or one is not within the image.
        """
        if not points or not all(0 <= x < record.width and 0 <= y < record.height for x, y in points):
            raise AnnotationError(
                f"{place}: expected points within {record.file_name} of {record.width}x{record.height} pixels, got "
                f"{_shown(points)}",
                remedy="give x and y in pixels",
            )
        xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        self._add(record, label, box, 0.0, None, place, negative, tuple(zip(xs, ys, strict=True)))

    def add_close_crop(self, record: ImageRecord, label: str, place: str, *, negative: bool = False) -> None:
        """Add an image that shows one object and little else: a box a little inside its border."""
        x, y = CLOSE_CROP_INSET * record.width, CLOSE_CROP_INSET * record.height
        box = (x, y, record.width - 2 * x, record.height - 2 * y)
        self._add(record, label, box, box[2] * box[3], None, place, negative)

    def build(self, source: str, class_names: Sequence[str] = ()) -> LabeledImages:
        """Return what was collected.

        Args:
            source: What to call it in messages.
            class_names: The order of the classes; those that are not among them follow, as they first came.

        Raises:
            EmptyClassError: Nothing was collected.
        """
        if not self._annotations:
            raise EmptyClassError(f"{source} has no annotated object", remedy="annotate one, or name another place")
        order = sorted(self._class_ids, key=lambda name: _place_in(class_names, name))
        categories = tuple(Category(self._class_ids[name], name) for name in order)
        used = {annotation.image_id for annotation in self._annotations}
        images = tuple(record for record in self._images.values() if record.id in used)
        return LabeledImages(
            CocoDataset(images, tuple(self._annotations), categories, source), self.base, tuple(self.files)
        )

    def _check_extent(self, record: ImageRecord, corners: Box, place: str) -> None:
        x1, y1, x2, y2 = corners
        beyond = max(-x1, -y1, x2 - record.width, y2 - record.height)
        if beyond > MOST_BEYOND:
            raise AnnotationError(
                f"{place}: it ends {beyond:g} pixels outside of {record.file_name} of {record.width}x{record.height} "
                "pixels",
                remedy="give the image that was annotated, or correct the coordinates",
            )

    def _add(
        self,
        record: ImageRecord,
        label: str,
        box: Box,
        area: float,
        segmentation: Segmentation | None,
        place: str,
        negative: bool,
        points: tuple[tuple[float, float], ...] = (),
    ) -> None:
        if not label.strip() or not can_be_written(label):
            raise AnnotationError(f"{place}: expected the name of a class, got {label!r:.60}", remedy="name its class")
        category = self._class_ids.setdefault(label, len(self._class_ids) + 1)
        self._annotations.append(
            Annotation(
                len(self._annotations) + 1,
                record.id,
                category,
                box,
                area,
                segmentation,
                negative=negative,
                points=points,
            )
        )


def number_in(text: str | None, name: str, place: str) -> float:
    """Return a finite number that is written as text.

    Raises:
        AnnotationError: It is not a number, or not finite.
    """
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        got = "nothing" if text is None else repr(text)[:40]
        raise AnnotationError(
            f"{place}: expected {name} as a number, got {got}",
            remedy="correct it at this place, or export the file again",
        )
    return number


def _is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is within a folder as it is written; links are not followed."""
    return Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(folder.absolute()))


def _place_in(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _shown(values: Sequence[Any]) -> str:
    listed = [f"{value:g}" if isinstance(value, float) else str(value) for value in values[:8]]
    return f"[{', '.join(listed)}{', ...' if len(values) > 8 else ''}]"
