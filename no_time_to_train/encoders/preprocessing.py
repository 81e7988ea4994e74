"""Bringing images and reference masks to the encoder: crop, resize, normalise, and masks to the patch grid."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from no_time_to_train.configs.pipeline import ResizePolicy
from no_time_to_train.encoders.base import Encoder

# Takes an image (RGB), a height and a width, and a device; gives pixels before their normalisation.
Resize: TypeAlias = Callable[[UInt8[Tensor, "3 H0 W0"], tuple[int, int], torch.device], Float[Tensor, "1 3 H W"]]


def image_tensor(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "3 H W"]:
    """Return an image with its channels first, as encoders take it."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def resize_bicubic(
    image: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "1 3 H W"]:
    """Scale to [0, 1] and resize in float: bicubic, antialiased, clamped to [0, 1]."""
    pixels = image.to(device)[None].float() / 255
    # Bicubic overshoots at edges; pixels outside [0, 1] are none that the encoder has seen.
    return F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def resize_bilinear(
    image: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "1 3 H W"]:
    """Scale to [0, 1] and resize in float: bilinear, antialiased, as Meta's `SAM2Transforms` does."""
    pixels = image.to(device)[None].float() / 255
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def normalize_pixels(
    pixels: Float[Tensor, "B 3 H W"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "B 3 H W"]:
    """Subtract each channel's mean, and divide by its standard deviation."""
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def encoder_pixels(
    image: UInt8[Tensor, "3 H0 W0"],
    encoder: Encoder,
    policy: ResizePolicy = "stretch",
    resize: Resize = resize_bicubic,
) -> Float[Tensor, "1 3 H W"]:
    """Resize an image, and normalise it as the encoder was trained.

    Args:
        image: RGB.
        encoder: Decides the size and the normalisation.
        policy: `stretch` to the square of the encoder's `img_size`, or `keep_ratio`.
        resize: How it is resized.
    """
    size = encoder_size(image.shape[1], image.shape[2], encoder, policy)
    return normalize_pixels(resize(image, size, encoder.device), encoder.image_mean, encoder.image_std)


def encoder_size(height: int, width: int, encoder: Encoder, policy: ResizePolicy) -> tuple[int, int]:
    """Return the height and width in pixels at which an image of that size is encoded."""
    if policy == "stretch":
        return encoder.img_size, encoder.img_size
    patch, scale = encoder.patch_size, encoder.img_size / max(height, width)
    return tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))  # type: ignore[return-value] # of two


def mask_on_grid(mask: Bool[Tensor, "H W"], grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Bring a mask to the patch grid, by one pixel for each patch.

    An object so small that it falls between those pixels keeps every patch that it touches.

    Args:
        mask: The object in the window around it.
        grid: Rows and columns of patches.
    """
    nearest = F.interpolate(mask[None, None].float(), size=grid, mode="nearest")[0, 0] > 0
    if nearest.any():
        return nearest
    return F.adaptive_max_pool2d(mask[None, None].float(), grid)[0, 0] > 0
