"""What a COCO-style annotation file says, as frozen records: images, annotations, categories, and the whole."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from no_time_to_train.errors import ConfigError, UnknownNameError

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons ``[[x0, y0, x1, y1, ...], ...]`` in pixels, or RLE ``{"size": [H, W], "counts": ...}``."""


MOST_BEYOND = 2  # pixels by which a tool may round a box over the border
# Tools such as pycocotools' `COCO.info()` expect both.
COCO_HEADER: Mapping[str, Any] = {"info": {"description": "Written by no_time_to_train"}, "licenses": []}


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as the annotation file names it.

    Args:
        id: Unique among the images.
        file_name: Path relative to the folder of images.
        width: In pixels, of the image as seen (EXIF orientation applied).
        height: In pixels, likewise.
        neg_category_ids: LVIS only: categories known to be absent from the image.
        not_exhaustive_category_ids: LVIS only: categories of which not every instance is annotated.
        frame: Of a frame of a video, the keys `video`, `frame_index` and `seconds` of this project.
    """

    id: int
    file_name: str
    width: int
    height: int
    neg_category_ids: tuple[int, ...] = ()
    not_exhaustive_category_ids: tuple[int, ...] = ()
    frame: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One instance of a category in an image.

    Args:
        id: Unique among the annotations.
        image_id: The image it is in.
        category_id: The category it is of.
        bbox: Box (x, y, w, h) in pixels, from the upper left corner.
        area: In square pixels; the area of the mask where there is one.
        segmentation: Polygons or RLE as in the file, or None where only the box is known. `decode_mask` reads it.
        iscrowd: The mask covers a group, not one instance.
        negative: A reference for what the class is not. A key of this project; COCO has none.
        points: Points (x, y) in pixels on an object without a mask, which say more than its box: SAM2 draws the mask
            that holds them all. The key `reference_points` of this project.
        score: Of an instance that was found; None of one that was annotated.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: Segmentation | None = field(default=None, hash=False)
    iscrowd: bool = False
    negative: bool = False
    points: tuple[tuple[float, float], ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects.

    Args:
        id: Unique among the categories.
        name: Unique among the categories.
        frequency: LVIS only: `r`, `c` or `f` for rare, common or frequent.
    """

    id: int
    name: str
    frequency: str | None = None


@dataclass(frozen=True)
class CocoDataset:
    """Images, annotations and categories that refer to each other by id, in the order of the file.

    Args:
        images: With unique ids.
        annotations: With unique ids, of images and categories that are there; empty for images without labels.
        categories: With unique ids and names. Their order gives the class indices.
        source: Where it is from, for messages: the path of the file.
    """

    images: tuple[ImageRecord, ...]
    annotations: tuple[Annotation, ...]
    categories: tuple[Category, ...]
    source: str = "memory"

    @cached_property
    def images_by_id(self) -> Mapping[int, ImageRecord]:
        """Images by their id."""
        return {image.id: image for image in self.images}

    @cached_property
    def annotations_by_id(self) -> Mapping[int, Annotation]:
        """Annotations by their id."""
        return {annotation.id: annotation for annotation in self.annotations}

    @cached_property
    def categories_by_id(self) -> Mapping[int, Category]:
        """Categories by their id."""
        return {category.id: category for category in self.categories}

    @cached_property
    def class_indices(self) -> Mapping[int, int]:
        """Place of each category in `categories`, by its id."""
        return {category.id: index for index, category in enumerate(self.categories)}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the categories, in their order."""
        return tuple(category.name for category in self.categories)

    def annotations_of(self, image_id: int) -> tuple[Annotation, ...]:
        """Return the annotations of an image, in the order of the file; none for an image without any."""
        return self._annotations_by_image.get(image_id, ())

    @cached_property
    def _annotations_by_image(self) -> Mapping[int, tuple[Annotation, ...]]:
        by_image: dict[int, list[Annotation]] = {}
        for annotation in self.annotations:
            by_image.setdefault(annotation.image_id, []).append(annotation)
        return {image_id: tuple(annotations) for image_id, annotations in by_image.items()}

    def select(self, category_names: Sequence[str]) -> "CocoDataset":
        """Return the subset with these categories, in this order.

        All images stay: those without an instance of the categories are where false positives show.

        Args:
            category_names: Names as in the file, each once.

        Raises:
            UnknownNameError: A name is not in the file; the message names the nearest.
            ConfigError: A name is given twice, or no name at all.
        """
        if not category_names or len(set(category_names)) < len(category_names):
            twice = sorted({name for name in category_names if list(category_names).count(name) > 1})
            raise ConfigError(
                f"expected each class once, got {', '.join(twice)} twice" if twice else "no class names were given",
                remedy="name each class once",
            )
        by_name = {category.name: category for category in self.categories}
        unknown = [name for name in category_names if name not in by_name]
        if unknown:
            raise UnknownNameError(
                f"{self.source} has no category {', '.join(_with_nearest(unknown, by_name))}",
                remedy=f"its {len(by_name)} categories are {_shortened(by_name)}",
            )
        chosen = tuple(by_name[name] for name in category_names)
        ids = {category.id for category in chosen}
        annotations = tuple(annotation for annotation in self.annotations if annotation.category_id in ids)
        return CocoDataset(self.images, annotations, chosen, self.source)

    def first(self, count: int | None) -> "CocoDataset":
        """Return the first images and what is annotated in them; all of them if `count` is None."""
        return self if count is None else self.only_images({image.id for image in self.images[:count]})

    def only_images(self, image_ids: Collection[int]) -> "CocoDataset":
        """Return the images of these ids and what is annotated in them, with all categories."""
        return CocoDataset(
            tuple(image for image in self.images if image.id in image_ids),
            tuple(annotation for annotation in self.annotations if annotation.image_id in image_ids),
            self.categories,
            self.source,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the COCO document that `load_coco` reads back as the same records."""
        return {
            **COCO_HEADER,
            "images": [_image_json(image) for image in self.images],
            "annotations": [_annotation_json(annotation) for annotation in self.annotations],
            "categories": [
                {"id": category.id, "name": category.name}
                | ({"frequency": category.frequency} if category.frequency else {})
                for category in self.categories
            ],
        }


def _image_json(image: ImageRecord) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": image.id,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
    }
    # Only LVIS has these, and its evaluation takes an empty list for "nothing is known to be absent".
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if getattr(image, key):
            document[key] = list(getattr(image, key))
    return document


def _annotation_json(annotation: Annotation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "bbox": list(annotation.bbox),
        "area": annotation.area,
        "iscrowd": int(annotation.iscrowd),
    }
    if annotation.negative:
        document["negative"] = True
    if annotation.score is not None:
        document["score"] = annotation.score
    if annotation.points:
        document["reference_points"] = [list(point) for point in annotation.points]
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), bytes):
        segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    if segmentation is not None:
        document["segmentation"] = segmentation
    return document


def pixels_beyond(annotation: Annotation, image: ImageRecord) -> float:
    """Return by how many pixels a box ends outside its image."""
    x, y, width, height = annotation.bbox
    return max(-x, -y, x + width - image.width, y + height - image.height, 0.0)


def is_below_a_pixel(annotation: Annotation) -> bool:
    """Return whether both sides of a box are less than a pixel, as those of relative coordinates are."""
    return 0 < max(annotation.bbox[2:]) < 1


def _with_nearest(unknown: Sequence[str], known: Iterable[str]) -> list[str]:
    candidates = list(known)
    described = []
    for name in unknown[:5]:
        nearest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.0)
        described.append(f"{name!r} (did you mean {nearest[0]}?)" if nearest else repr(name))
    return described


def _shortened(names: Iterable[str], shown: int = 20) -> str:
    listed = list(names)
    return ", ".join(listed[:shown]) + (", ..." if len(listed) > shown else "")
