"""Check arguments of the Python API: boxes, points, scores, labels, paths."""

import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import can_be_written

Box = tuple[float, float, float, float]


def checked_box(box: Any, size: tuple[int, int]) -> Box:
    """Return a box within an image.

    Args:
        box: x1, y1, x2, y2 in pixels, where x2 and y2 are the end of the last one: a sequence, an array or a tensor.
        size: Height and width of the image.

    Raises:
        ConfigError: It is not four numbers, or not a box within the image.
    """
    remedy = "give x1, y1, x2, y2 in pixels; COCO's boxes are x, y, width, height"
    numbers = _numbers(box)
    if numbers is None or numbers.shape != (4,):
        raise ConfigError(f"the box is {_shown(box)}, expected four numbers", remedy=remedy)
    x1, y1, x2, y2 = numbers.tolist()
    height, width = size
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ConfigError(
            f"the box is {_shown(box)} in an image {width} wide and {height} high, expected x1 < x2 and y1 < y2 within "
            "it",
            remedy=remedy,
        )
    return x1, y1, x2, y2


def checked_points(points: Any, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return points within an image.

    Args:
        points: x and y of each in pixels: an iterable of pairs, or an array or a tensor (N, 2).
        size: Height and width of the image.

    Raises:
        ConfigError: They are not points, or none, or one is outside the image.
    """
    numbers = _numbers(points)
    if numbers is not None and not numbers.size:
        raise ConfigError("points are empty, expected at least one", remedy="give x and y of each in pixels")
    if numbers is None or numbers.ndim != 2 or numbers.shape[1] != 2:
        raise ConfigError(
            f"points are {_shown(points)}, expected a list of points",
            remedy="give x and y of each, one point as [(x, y)]",
        )
    height, width = size
    given = [(float(x), float(y)) for x, y in numbers]
    outside = [point for point in given if not (0 <= point[0] < width and 0 <= point[1] < height)]
    if outside:
        raise ConfigError(
            f"points {_shown(outside)} are outside an image {width} wide and {height} high",
            remedy="give x and y in pixels",
        )
    return given


def checked_number(value: Any, name: str) -> float:
    """Return a number that is not NaN; text is not taken for one.

    Args:
        value: A number, or an array or a tensor of no dimensions.
        name: What to call it in errors.

    Raises:
        ConfigError: It is not a number.
    """
    numbers = None if isinstance(value, bool) else _numbers(value)
    if numbers is None or numbers.ndim or math.isnan(numbers):
        raise ConfigError(f"{name} is {_shown(value)}, expected a number", remedy="give one such as 0.3")
    return float(numbers)


def checked_label(label: Any) -> str:
    """Return the name of a class.

    Raises:
        ConfigError: It is not text, or empty, or not valid Unicode.
    """
    if not isinstance(label, str) or not label or not can_be_written(label):
        raise ConfigError(f"a reference needs a label as text, got {_shown(label)}", remedy="name its class")
    return str(label)


def checked_path(value: Any, name: str) -> Path:
    """Return a path.

    Args:
        value: Text or a path.
        name: What to call it in errors.

    Raises:
        ConfigError: It is neither.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise ConfigError(f"{name} is {_shown(value)}, expected a path", remedy="give it as text or as pathlib.Path")
    return Path(value)


def check_not_replaced(written: Iterable[Path], read: Mapping[str, Path | None]) -> None:
    """Refuse input files that the output would replace.

    Args:
        written: The files that are written.
        read: The files that are read, by the option or setting that names each.

    Raises:
        ConfigError: A file is both.
    """
    places = {os.path.realpath(path) for path in written}
    for name, path in read.items():
        if path is not None and os.path.realpath(path) in places:
            raise ConfigError(f"{name} is {path}, which the output would replace", remedy="name another output")


def _numbers(value: Any) -> np.ndarray | None:
    """Return numbers in whatever a caller has them; None if they are something else, text included."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes) and not hasattr(value, "tolist"):
        value = [_plain(item) for item in value]
    try:
        numbers = np.asarray(_plain(value))
    except (ValueError, OverflowError):
        # Rows of several lengths, integers without limit.
        return None
    if numbers.dtype.kind not in "iuf" and numbers.size:
        return None
    return numbers.astype(np.float64)


def _plain(value: Any) -> Any:
    """Return an array's or a tensor's values as numbers and lists, wherever they are."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except (RuntimeError, NotImplementedError):
        # A tensor without values, or of a sparse layout.
        return None


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())
