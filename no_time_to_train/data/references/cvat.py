"""CVAT's XML "for images": one file for all images.

Source: CVAT's documentation of its XML annotation format, version 1.1.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool

from no_time_to_train.data.records import ImageRecord
from no_time_to_train.data.references.builder import LabeledImages, RecordBuilder, number_in
from no_time_to_train.errors import AnnotationError

_SHAPES = ("box", "polygon", "mask", "ellipse", "points")
_NO_AREAS = ("polyline", "cuboid", "skeleton", "tag")
_REMEDY = f"export from CVAT again, with {', '.join(_SHAPES)} only"


def read_cvat(path: Path, document: Element, root: Path, images: Path | None = None) -> LabeledImages:
    """Read CVAT's XML for images.

    Args:
        path: The file.
        document: Its root element.
        root: The folder that was named, in which images are looked for.
        images: The folder of the images, where one was named.

    Raises:
        NoTimeToTrainError: The file is malformed, or an image is missing or of another size.
    """
    if document.find("track") is not None:
        raise AnnotationError(
            f"{path} is CVAT's XML for video, whose tracks are not read", remedy="export it as CVAT for images"
        )
    builder = RecordBuilder(root, images)
    builder.files.append(path)
    ids: set[str] = set()
    for entry in document.findall("image"):
        number, name = entry.get("id", ""), entry.get("name", "")
        place = f"{path}: image {number or name!r:.60}"
        if not name or number in ids:
            got = "without a name" if not name else "whose id is there twice"
            raise AnnotationError(f"{place}: an image {got}", remedy="export the file again")
        ids.add(number)
        shapes = [shape for shape in entry if shape.tag in (*_SHAPES, *_NO_AREAS)]
        if not shapes:
            continue
        folders = [path.parent, path.parent / "images"]
        if entry.get("subset"):
            folders.append(path.parent / "images" / Path(entry.get("subset", "")).name)
        width, height = (number_in(entry.get(side), side, place) for side in ("width", "height"))
        record = builder.image(builder.find_image(name, place, folders), place, (int(width), int(height)))
        for index, shape in enumerate(shapes, start=1):
            _add_shape(builder, record, shape, f"{place}: {shape.tag} {index}")
    declared = [name.text or "" for name in document.iterfind(".//label/name")]
    return builder.build(str(path), declared)


def _add_shape(builder: RecordBuilder, record: ImageRecord, shape: Element, place: str) -> None:
    label = shape.get("label", "")
    if shape.tag in _NO_AREAS:
        raise AnnotationError(f"{place}: expected {', '.join(_SHAPES)}, got a {shape.tag}", remedy=_REMEDY)
    if shape.tag == "box":
        x1, y1, x2, y2 = (number_in(shape.get(name), name, place) for name in ("xtl", "ytl", "xbr", "ybr"))
        turned = number_in(shape.get("rotation", "0"), "rotation", place)
        if turned:
            builder.add_polygon(record, label, _turned((x1, y1, x2, y2), turned), place)
        else:
            builder.add_box(record, label, (x1, y1, x2 - x1, y2 - y1), place)
    elif shape.tag == "ellipse":
        x, y, rx, ry = (number_in(shape.get(name), name, place) for name in ("cx", "cy", "rx", "ry"))
        if number_in(shape.get("rotation", "0"), "rotation", place):
            raise AnnotationError(f"{place}: an ellipse that is turned is not read", remedy="export it as a polygon")
        builder.add_ellipse(record, label, (x, y), (rx, ry), place)
    elif shape.tag == "mask":
        builder.add_mask(record, label, _mask(shape, record, place), place)
    else:
        points = _points(shape.get("points", ""), place)
        if shape.tag == "points":
            builder.add_points(record, label, points, place)
        else:
            group = shape.get("group_id")
            flat = [value for point in points for value in point]
            builder.add_polygon(record, label, flat, place, group=None if group in (None, "0") else group)


def _points(text: str, place: str) -> list[tuple[float, float]]:
    found = []
    for pair in text.split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise AnnotationError(f"{place}: expected points as x,y;x,y, got {text!r:.60}", remedy=_REMEDY)
        found.append((number_in(x, "points", place), number_in(y, "points", place)))
    return found


def _turned(corners: Sequence[float], degrees: float) -> list[float]:
    """Return the corners of a box that is turned clockwise around its center."""
    x1, y1, x2, y2 = corners
    x, y, angle = (x1 + x2) / 2, (y1 + y2) / 2, math.radians(degrees)
    found: list[float] = []
    for across, down in ((x1 - x, y1 - y), (x2 - x, y1 - y), (x2 - x, y2 - y), (x1 - x, y2 - y)):
        found += [
            x + across * math.cos(angle) - down * math.sin(angle),
            y + across * math.sin(angle) + down * math.cos(angle),
        ]
    return found


def _mask(shape: Element, record: ImageRecord, place: str) -> Bool[np.ndarray, "H W"]:
    """Return the mask of runs along the rows of its box, background first, at the size of the image."""
    sides = [number_in(shape.get(name), name, place) for name in ("left", "top", "width", "height")]
    left, top, width, height = (int(side) for side in sides)
    if min(left, top) < 0 or min(width, height) < 1 or left + width > record.width or top + height > record.height:
        raise AnnotationError(
            f"{place}: a mask of {width}x{height} pixels at {left}, {top} is not within {record.file_name} of "
            f"{record.width}x{record.height} pixels",
            remedy="export the file again, with the images that were annotated",
        )
    runs = [number_in(run, "rle", place) for run in shape.get("rle", "").split(",")]
    if min(runs) < 0 or sum(runs) != width * height or any(run != int(run) for run in runs):
        raise AnnotationError(
            f"{place}: expected runs that sum to its {width * height} pixels, got a sum of {sum(runs):g}",
            remedy="export the file again",
        )
    foreground = np.arange(len(runs)) % 2 == 1
    mask = np.zeros((record.height, record.width), dtype=bool)
    part = np.repeat(foreground, np.asarray(runs, dtype=np.int64)).reshape(height, width)
    mask[top : top + height, left : left + width] = part
    return mask
