"""Check what callers of the Python API pass: images, masks, boxes, points, labels, paths."""

import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from no_time_to_train.data.images import foreground_of, load_image, load_mask, to_mask, to_rgb
from no_time_to_train.errors import ConfigError, ImageReadError, ImageSizeError, MaskSizeError
from no_time_to_train.io.messages import can_be_written

if TYPE_CHECKING:
    from torch import Tensor

ImageLike: TypeAlias = Union[str, Path, Image.Image, np.ndarray, "Tensor"]  # text takes no |
Box = tuple[float, float, float, float]


def as_image(value: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    """Bring an image to RGB, 8 bits a channel.

    Args:
        value: A path; a Pillow image of any mode; an array (H, W, 3), (H, W, 4) or (H, W); or a tensor (3, H, W) or
            (1, H, W). Arrays and tensors are uint8, or floats in [0, 1]. Of four channels the last, alpha, is dropped.

    Raises:
        ImageReadError: The file cannot be read, or the values are of another type or range.
        ImageSizeError: The value has another shape.
    """
    if isinstance(value, str | Path):
        pixels = np.array(load_image(Path(value)))
    elif isinstance(value, Image.Image):
        pixels = np.array(to_rgb(value, "the image"))
    else:
        pixels = _array_of(value, "an image")
        if _is_tensor(value):
            if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
                raise ImageSizeError(
                    f"an image tensor of shape {pixels.shape}, expected (3, H, W)",
                    remedy="give one image, channels first; an array has them last",
                )
            pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim != 3 or (pixels.shape[2] not in (3, 4) and not _is_tensor(value)):
        raise ImageSizeError(
            f"an image array of shape {pixels.shape}, expected (H, W, 3) or (H, W)",
            remedy="give one image, channels last; a tensor has them first",
        )
    # Writable: torch shares memory with arrays, and warns of those that cannot be written to.
    return np.require(np.broadcast_to(_eight_bit(pixels[..., :3]), (*pixels.shape[:2], 3)), requirements=("C", "W"))


def as_mask(value: ImageLike, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Bring a mask to booleans; whatever is not zero is foreground. Probabilities and logits are refused.

    Args:
        value: A path or a Pillow image, of which any channel but alpha counts, and of a palette the index; or an array
            or a tensor (H, W).
        size: Height and width of its image.

    Raises:
        ImageReadError: The file cannot be read, or floats are of many values.
        MaskSizeError: The mask is not of its image's size.
    """
    if isinstance(value, str | Path):
        mask = load_mask(Path(value))
    elif isinstance(value, Image.Image):
        mask = to_mask(value, "a mask")
    else:
        values = _array_of(value, "a mask")
        if values.dtype.kind not in "biuf":
            raise ImageReadError(
                f"a mask of {values.dtype}, expected booleans or whole numbers", remedy="give mask.astype(bool)"
            )
        mask = foreground_of(values, "a mask")
    if mask.shape != size:
        raise MaskSizeError(
            f"a mask of shape {mask.shape} for an image of {size[0]}x{size[1]} (height, width)",
            remedy="give each image a mask of its own size",
        )
    return mask


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


def _is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor. torch is not imported for it."""
    return hasattr(value, "detach")


def _array_of(value: Any, name: str) -> np.ndarray:
    """Return an array of whatever may be one.

    Raises:
        ImageReadError: It is not.
    """
    try:
        if not _is_tensor(value):
            return np.asarray(value)
        plain = value.detach().cpu()
        # NumPy has no bfloat16 and no floats of 8 bits.
        narrow = plain.is_floating_point() and str(plain.dtype) not in (
            "torch.float16",
            "torch.float32",
            "torch.float64",
        )
        return np.asarray((plain.float() if narrow else plain).numpy())
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ImageReadError(
            f"{name} of type {type(value).__name__} cannot be read: {str(error).splitlines()[0]}",
            remedy="give a path, a Pillow image, an array or a dense tensor",
        ) from error


def _eight_bit(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Take uint8 as it is, and floats in [0, 1] as parts of 255."""
    if 0 in values.shape:
        raise ImageSizeError(f"an empty image of shape {values.shape}", remedy="give one with pixels")
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all():
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            return np.asarray(np.rint(values * 255), np.uint8)
        raise ImageReadError(
            f"an image of floats from {low:g} to {high:g}, expected 0 to 1", remedy="scale it, or give uint8"
        )
    raise ImageReadError(
        f"an image of {values.dtype}, expected uint8 or finite floats in [0, 1]", remedy="convert it to uint8"
    )


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
