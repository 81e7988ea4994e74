"""LabelMe's JSON, one file for each image.

Source: labelme 5, ``labelme/label_file.py`` and ``examples/instance_segmentation/labelme2coco.py``: shapes of one label
and one group_id are one object.
"""

import base64
import binascii
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from no_time_to_train.data.coco import shown_value
from no_time_to_train.data.images import to_mask
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.data.references.builder import LabeledImages, RecordBuilder
from no_time_to_train.errors import AnnotationError, NoTimeToTrainError

_REMEDY = "correct it in LabelMe, or remove the shape"
_AREAS = "polygon, rectangle, circle, mask, point or points"


def is_labelme(document: Any) -> bool:
    """Return whether a JSON document is LabelMe's."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def read_labelme(
    documents: Sequence[tuple[Path, dict[str, Any]]], root: Path, images: Path | None = None
) -> LabeledImages:
    """Read LabelMe files.

    Args:
        documents: Each file with its JSON document.
        root: The folder that was named, in which images are looked for.
        images: The folder of the images, where one was named.

    Raises:
        NoTimeToTrainError: A file is malformed, or an image is missing or of another size.
    """
    builder = RecordBuilder(root, images)
    for path, document in documents:
        name = document.get("imagePath")
        if not isinstance(name, str) or not name:
            raise AnnotationError(
                f"{path}: expected imagePath, got {shown_value(name)}", remedy="name the image that it is of"
            )
        image = builder.find_image(name, str(path), [path.parent])
        add_shapes(builder, builder.image(image, str(path), size_in(document)), path, document)
    return builder.build(str(root))


def size_in(document: dict[str, Any]) -> tuple[int, int] | None:
    """Return the width and height that a LabelMe document says, if it does."""
    size = document.get("imageWidth"), document.get("imageHeight")
    return (size[0], size[1]) if type(size[0]) is int and type(size[1]) is int else None


def add_shapes(
    builder: RecordBuilder,
    record: ImageRecord,
    path: Path,
    document: dict[str, Any],
    label: str | None = None,
    *,
    negative: bool = False,
) -> None:
    """Add all shapes of a LabelMe document.

    Args:
        builder: Where to.
        record: The image.
        path: The file, for messages.
        document: Its content.
        label: The class of all of them; None takes each shape's label.
        negative: They show what the class is not.

    Raises:
        AnnotationError: A shape is malformed, or has no area.
    """
    builder.files.append(path)
    for index, shape in enumerate(document["shapes"]):
        place = f"{path}: shapes[{index}]"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise AnnotationError(f"{place}: expected an object with a label", remedy=_REMEDY)
        _add_shape(builder, record, label or shape["label"], shape, place, negative)


def _add_shape(
    builder: RecordBuilder, record: ImageRecord, label: str, shape: dict[str, Any], place: str, negative: bool
) -> None:
    kind, points = shape.get("shape_type") or "polygon", _points(shape.get("points"), place)
    if kind in ("polygon", "rotation"):  # The second is of X-AnyLabeling, a box that is turned.
        flat = [value for point in points for value in point]
        group = shape.get("group_id")
        group = group if isinstance(group, int | str) else None
        builder.add_polygon(record, label, flat, place, negative=negative, group=group)
    elif kind == "rectangle" and len(points) in (2, 4):  # Two corners, or all four in X-AnyLabeling.
        xs, ys = [x for x, _ in points], [y for _, y in points]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        builder.add_box(record, label, box, place, negative=negative)
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        builder.add_ellipse(record, label, points[0], (radius, radius), place, negative=negative)
    elif kind == "mask" and len(points) == 2:
        mask = _whole_mask(shape, points, record, place)
        builder.add_mask(record, label, mask, place, negative=negative)
    elif kind in ("point", "points"):
        builder.add_points(record, label, points, place, negative=negative)
    else:
        raise AnnotationError(
            f"{place}: a shape of type {shown_value(kind)} with {len(points)} points, expected {_AREAS}", remedy=_REMEDY
        )


def _points(points: Any, place: str) -> list[tuple[float, float]]:
    found = []
    listed: list[Any] = points if isinstance(points, list) else [None]
    for point in listed:
        numbers = isinstance(point, list) and len(point) == 2 and all(type(side) in (int, float) for side in point)
        if not numbers or not all(abs(side) < 1e9 for side in point):
            raise AnnotationError(
                f"{place}: expected points as a list of [x, y], got {shown_value(point)}", remedy=_REMEDY
            )
        found.append((float(point[0]), float(point[1])))
    return found


def _whole_mask(
    shape: dict[str, Any], points: Sequence[tuple[float, float]], record: ImageRecord, place: str
) -> np.ndarray:
    """Return the mask of a shape, which is stored as a PNG of its box, at the size of the image."""
    encoded = shape.get("mask")
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded or "", validate=True))) as image:
            part = to_mask(image, "the mask")
    except (OSError, ValueError, TypeError, binascii.Error, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.message if isinstance(error, NoTimeToTrainError) else "it is not an image in base64"
        raise AnnotationError(f"{place}: its mask cannot be read: {reason}", remedy=_REMEDY) from error
    left, top = round(points[0][0]), round(points[0][1])
    whole = np.zeros((record.height, record.width), dtype=bool)
    height, width = part.shape
    if left < 0 or top < 0 or left + width > record.width or top + height > record.height:
        raise AnnotationError(
            f"{place}: a mask of {width}x{height} pixels at {left}, {top} ends outside of {record.file_name} of "
            f"{record.width}x{record.height} pixels",
            remedy=_REMEDY,
        )
    whole[top : top + height, left : left + width] = part
    return whole
