"""Images and masks in whatever a caller has them: paths, Pillow's images, arrays, tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from no_time_to_train.data.images import foreground_of, load_image, load_mask, to_mask, to_rgb
from no_time_to_train.errors import ImageReadError, ImageSizeError, MaskSizeError

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


def as_image(value: ImageLike) -> UInt8[Tensor, "3 H W"]:
    """Bring an image to RGB, 8 bits a channel.

    Args:
        value: A path; a Pillow image of any mode; an array (H, W, 3), (H, W, 4) or (H, W); or a tensor (3, H, W) or
            (1, H, W). Arrays and tensors are uint8, or floats in [0, 1]. Of four channels the last, alpha, is dropped.

    Raises:
        ImageReadError: The file cannot be read, or the values are of another type or range.
        ImageSizeError: The shape is none of these.
    """
    if isinstance(value, str | Path):
        pixels = np.array(load_image(Path(value)))
    elif isinstance(value, Image.Image):
        pixels = np.array(to_rgb(value, "the image"))
    elif isinstance(value, Tensor):
        if value.ndim != 3 or value.shape[0] not in (1, 3):
            raise ImageSizeError(
                f"an image tensor of shape {tuple(value.shape)}, expected (3, H, W)",
                remedy="give one image, channels first; an array has them last",
            )
        return _eight_bit(_array_of(value, "an image")).expand(3, -1, -1).contiguous()
    else:
        pixels = _array_of(value, "an image")
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ImageSizeError(
            f"an image array of shape {pixels.shape}, expected (H, W, 3) or (H, W)",
            remedy="give one image, channels last; a tensor has them first",
        )
    return _eight_bit(pixels[..., :3]).permute(2, 0, 1).contiguous()


def as_mask(value: ImageLike, size: tuple[int, int]) -> Bool[Tensor, "H W"]:
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
        mask = torch.from_numpy(load_mask(Path(value)))
    elif isinstance(value, Image.Image):
        mask = torch.from_numpy(to_mask(value, "a mask"))
    else:
        values = _array_of(value, "a mask")
        if values.dtype.kind not in "biuf":
            raise ImageReadError(
                f"a mask of {values.dtype}, expected booleans or whole numbers", remedy="give mask.astype(bool)"
            )
        mask = torch.from_numpy(foreground_of(values, "a mask"))
    if tuple(mask.shape) != size:
        raise MaskSizeError(
            f"a mask of shape {tuple(mask.shape)} for an image of {size[0]}x{size[1]} (height, width)",
            remedy="give each image a mask of its own size",
        )
    return mask


def _array_of(value: Any, name: str) -> np.ndarray:
    """Return an array of whatever may be one.

    Raises:
        ImageReadError: It is not.
    """
    try:
        if not isinstance(value, Tensor):
            return np.asarray(value)
        plain = value.detach().cpu()
        # NumPy has no bfloat16 and no floats of 8 bits.
        known = not plain.is_floating_point() or plain.dtype in (torch.float16, torch.float32, torch.float64)
        return (plain if known else plain.float()).numpy()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ImageReadError(
            f"{name} of type {type(value).__name__} cannot be read: {str(error).splitlines()[0]}",
            remedy="give a path, a Pillow image, an array or a dense tensor",
        ) from error


def _eight_bit(values: Any) -> Tensor:
    """Take uint8 as it is, and floats in [0, 1] as parts of 255."""
    if 0 in values.shape:
        raise ImageSizeError(f"an empty image of shape {values.shape}", remedy="give one with pixels")
    if values.dtype == np.uint8:
        # torch shares memory with arrays, and takes none that cannot be written to.
        return torch.from_numpy(np.ascontiguousarray(values) if values.flags.writeable else values.copy())
    if np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all():
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            return torch.from_numpy(np.rint(values * 255).astype(np.uint8))
        raise ImageReadError(
            f"an image of floats from {low:g} to {high:g}, expected 0 to 1", remedy="scale it, or give uint8"
        )
    raise ImageReadError(
        f"an image of {values.dtype}, expected uint8 or finite floats in [0, 1]", remedy="convert it to uint8"
    )
