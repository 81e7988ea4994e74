"""What an entry of the journal must hold before anything is made of it: files can be damaged, edited, or mixed up."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.data.masks import measure_rle

_KEYS = {"file_name", "height", "width", "instances", "best_scores", "run", "stamp"}
_INSTANCE_KEYS = {"category", "category_id", "bbox", "area", "score", "segmentation"}
# Scores are products of cosines of unit vectors in float32, which round to some 2^-23 above 1.
_MOST_SCORE = 1 + 1e-5


def check_entry(entry: dict[str, Any], image: InputImage, class_names: Sequence[str], min_score: float) -> None:
    """Refuse an entry that a run on this image cannot have written.

    Args:
        entry: As read from JSON.
        image: The image.
        class_names: The classes that are looked for, in their order.
        min_score: Instances of a lower score are left out.

    Raises:
        ValueError: A value is missing, of another type, or impossible.
        NoTimeToTrainError: The image cannot be read, or a mask is malformed or of another size.
    """
    frame = image.frame_record()
    keys = _KEYS if frame is None else _KEYS | {"frame"}
    _expect(entry.keys() == keys and isinstance(entry["instances"], list), "keys")
    _expect(entry.get("frame") == frame, "frame")
    height, width = entry["height"], entry["width"]
    _expect(type(height) is type(width) is int and (width, height) == image.size(), "size")
    best = entry["best_scores"]
    _expect(isinstance(best, dict) and best.keys() <= set(class_names), "best_scores")
    for score in best.values():
        _expect(_is_score(score, -_MOST_SCORE), "best_scores")
    # Scores are compared with the least score in float32.
    least = float(np.float32(min_score))
    for found in entry["instances"]:
        _check_instance(found, (height, width), class_names, least)
        _expect(found["score"] <= best.get(found["category"], -math.inf), "score")


def _check_instance(found: Any, size: tuple[int, int], class_names: Sequence[str], least: float) -> None:
    _expect(isinstance(found, dict) and found.keys() == _INSTANCE_KEYS, "keys of an instance")
    _expect(found["category"] in class_names, "category")
    _expect(type(found["category_id"]) is int, "category_id")
    _expect(found["category_id"] == class_names.index(found["category"]) + 1, "category_id")
    _expect(_is_score(found["score"], least), "score")
    mask = found["segmentation"]
    _expect(isinstance(mask, dict) and mask.keys() == {"size", "counts"} and isinstance(mask["counts"], str), "mask")
    box, area = measure_rle(0, mask, *size)
    _expect(area > 0 and type(found["area"]) is int and found["area"] == area, "area")
    _expect(isinstance(found["bbox"], list) and all(type(side) is float for side in found["bbox"]), "bbox")
    x, y, width, height = box
    # The published protocol counts from the first to the last pixel; which one a run has, its name says.
    _expect(found["bbox"] in ([x, y, width, height], [x, y, width - 1, height - 1]), "bbox")


def _is_score(value: Any, least: float) -> bool:
    return type(value) is float and least <= value <= _MOST_SCORE


def _expect(true: bool, what: str) -> None:
    if not true:
        raise ValueError(f"unexpected {what}")
