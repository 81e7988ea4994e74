"""Reading and writing COCO JSON, and LVIS JSON, which is nearly the same.

Every malformed file ends in an `AnnotationError` that says where. Segmentations are not looked into here, which would
take longer than reading the rest; `decode_mask` checks the one that it decodes.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from no_time_to_train.data.masks import decode_mask, encode_mask
from no_time_to_train.data.records import Annotation, Category, CocoDataset, ImageRecord, Segmentation
from no_time_to_train.errors import AnnotationError, DataNotFoundError
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.io.messages import can_be_written
from no_time_to_train.io.strict_json import parse_json

__all__ = [
    "Annotation",
    "Category",
    "CocoDataset",
    "ImageRecord",
    "Segmentation",
    "decode_mask",
    "encode_mask",
    "load_coco",
    "write_coco",
]

# Masks of more pixels do not fit pycocotools' 32-bit run lengths.
_MOST_PIXELS = 2**31
_REMEDY = "correct the file at this place; expected is COCO's format for object detection"


class _HasId(Protocol):
    @property
    def id(self) -> int: ...


_Record = TypeVar("_Record", bound=_HasId)


class _Malformed(Exception):
    """What is wrong with one record, before it is known in which place and file."""


def load_coco(path: Path) -> CocoDataset:
    """Read and check a COCO or LVIS annotation file.

    "annotations" may be missing where only images and categories are named. Annotations without a mask keep their
    box. An annotation without "area" gets that of its box. LVIS names no files: the last two parts of its
    "coco_url" are taken, as in ``train2017/000000391895.jpg``.

    Args:
        path: The JSON file.

    Returns:
        The records, in the order of the file.

    Raises:
        DataNotFoundError: There is no such file.
        AnnotationError: The file is not valid JSON, or lacks something, or has a value of a wrong type or out of range,
            or a key, an id or a category name twice, or an annotation of an image or a category that is not there.
    """
    document = read_annotation_json(path)
    if not isinstance(document, dict):
        raise _error(path, "the document", f"expected an object, got {shown_value(document)}")
    images = _records(document, "images", _image, path)
    categories = _records(document, "categories", _category, path)
    _check_unique((category.name for category in categories), "categories", "name", path)
    annotations: tuple[Annotation, ...] = ()
    if "annotations" in document:
        annotations = _records(document, "annotations", _annotation, path)
    image_ids = {image.id for image in images}
    category_ids = {category.id for category in categories}
    for index, annotation in enumerate(annotations):
        if annotation.image_id not in image_ids:
            raise _error(path, f"annotations[{index}]", f"image_id {annotation.image_id} is not among the images")
        if annotation.category_id not in category_ids:
            what = f"category_id {annotation.category_id} is not among the categories"
            raise _error(path, f"annotations[{index}]", what)
    return CocoDataset(images, annotations, categories, str(path))


def write_coco(dataset: CocoDataset, path: Path) -> None:
    """Write a dataset as COCO JSON, wholly or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text_atomic(path, json.dumps(dataset.to_json(), allow_nan=False) + "\n")


def read_annotation_json(path: Path) -> Any:
    """Read a JSON file of annotations, of whatever form.

    Raises:
        DataNotFoundError: There is no such file, or it may not be read.
        AnnotationError: It is not valid JSON.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise DataNotFoundError(
            f"the annotation file {path} {what}", remedy="check the path; expected is a JSON file in COCO's format"
        )
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:  # of broken JSON, broken UTF-8, endless numbers, keys that are there twice
        raise AnnotationError(
            f"{path} is not valid JSON: {error}", remedy="correct it at this place, or export the file again"
        ) from error
    except OSError as error:
        raise DataNotFoundError(
            f"the annotation file {path} cannot be read: {error.strerror}", remedy="check its permissions"
        ) from error


def _records(
    document: dict[str, Any], key: str, parse: Callable[[dict[str, Any]], _Record], path: Path
) -> tuple[_Record, ...]:
    if key not in document:
        raise _error(path, "the document", f"expected the list {key!r}, got only {shown_value(sorted(document))}")
    entries = document[key]
    if not isinstance(entries, list):
        raise _error(path, key, f"expected a list, got {shown_value(entries)}")
    records = []
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _Malformed(f"expected an object, got {shown_value(entry)}")
            records.append(parse(entry))
        except _Malformed as malformed:
            raise _error(path, f"{key}[{index}]", str(malformed)) from None
    _check_unique((record.id for record in records), key, "id", path)
    return tuple(records)


def _image(entry: dict[str, Any]) -> ImageRecord:
    width, height = _integer(entry, "width"), _integer(entry, "height")
    if width < 1 or height < 1 or width * height >= _MOST_PIXELS:
        raise _Malformed(f"expected a size of at least 1x1 and less than 2^31 pixels, got {width}x{height}")
    if "file_name" not in entry and isinstance(entry.get("coco_url"), str):
        file_name = "/".join(entry["coco_url"].split("/")[-2:])
    else:
        file_name = _text(entry, "file_name")
    return ImageRecord(
        _integer(entry, "id"),
        file_name,
        width,
        height,
        _integers(entry, "neg_category_ids"),
        _integers(entry, "not_exhaustive_category_ids"),
    )


def _category(entry: dict[str, Any]) -> Category:
    frequency = entry.get("frequency")
    name = _text(entry, "name")
    if not can_be_written(name):
        raise _Malformed(f"expected name as text, got {shown_value(name)}, which has half of a surrogate pair")
    return Category(_integer(entry, "id"), name, frequency if frequency in ("r", "c", "f") else None)


def _annotation(entry: dict[str, Any]) -> Annotation:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise _Malformed(f"expected bbox [x, y, width, height], got {shown_value(box)}")
    x, y, width, height = (_finite(value, "bbox") for value in box)
    if width < 0 or height < 0:
        raise _Malformed(f"expected a bbox of no negative width or height, got {shown_value(box)}")
    segmentation = entry.get("segmentation")
    if segmentation is not None and not isinstance(segmentation, list | dict):
        raise _Malformed(f"expected segmentation as polygons or RLE, got {shown_value(segmentation)}")
    return Annotation(
        _integer(entry, "id"),
        _integer(entry, "image_id"),
        _integer(entry, "category_id"),
        (x, y, width, height),
        _finite(entry["area"], "area") if "area" in entry else width * height,
        # Tools write an empty list where they have only a box, or a list of one.
        None if segmentation in ([], [[]], {}) else segmentation,
        _flag(entry, "iscrowd"),
        _flag(entry, "negative"),
        _points(entry, "reference_points"),
        None if entry.get("score") is None else _finite(entry["score"], "score"),
    )


def _points(entry: dict[str, Any], key: str) -> tuple[tuple[float, float], ...]:
    points = entry.get(key, [])
    if not isinstance(points, list) or any(not isinstance(point, list) or len(point) != 2 for point in points):
        raise _Malformed(f"expected {key} as a list of [x, y], got {shown_value(points)}")
    return tuple((_finite(x, key), _finite(y, key)) for x, y in points)


def _integer(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is float and value.is_integer():  # Tools that go through tables of floats write 1.0.
        value = int(value)
    if type(value) is int and abs(value) < 2**63:
        return value
    raise _Malformed(f"expected {key} as an integer, got {shown_value(value)}")


def _integers(entry: dict[str, Any], key: str) -> tuple[int, ...]:
    values = entry.get(key, [])
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise _Malformed(f"expected {key} as a list of integers, got {shown_value(values)}")
    return tuple(values)


def _finite(value: Any, key: str) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) < 2**53:  # Larger ones would not survive as floats, or overflow.
        return float(value)
    raise _Malformed(f"expected finite numbers in {key}, got {shown_value(value)}")


def _flag(entry: dict[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if value not in (0, 1):
        raise _Malformed(f"expected {key} as 0 or 1, got {shown_value(value)}")
    return bool(value)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if isinstance(value, str) and value:
        return value
    raise _Malformed(f"expected {key} as text that is not empty, got {shown_value(value)}")


def _check_unique(values: Iterable[int | str], key: str, field: str, path: Path) -> None:
    seen: set[int | str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise _error(path, f"{key}[{index}]", f"{field} {shown_value(value)} is there twice")
        seen.add(value)


def shown_value(value: Any) -> str:
    """Show a value of unknown size in a few characters."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(item, list | dict) for item in value)):
        return f"a list of {len(value)}"  # Deep nesting would be too much for repr.
    if isinstance(value, int) and abs(value) > 10**20:
        return "an integer of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _error(path: Path, place: str, what: str) -> AnnotationError:
    return AnnotationError(f"{path}: {place}: {what}", remedy=_REMEDY)
