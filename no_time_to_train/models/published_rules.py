"""The original's rules around the matching step, as its own code has them; `protocols` says where each is used.

Source: no-time-to-train at 214fc79, `dataset/coco_ref_dataset.py` and `models/Sam2MatchingBaseline_noAMG.py`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from no_time_to_train.errors import ConfigError

# Side in pixels to which every target is brought first, whatever the encoder then takes.
_LOADED_SIDE = 1024


def resize_in_uint8(
    image: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "1 3 H W"]:
    """Resize with Pillow's default, which is bicubic, antialiased and rounds to 8 bits; then scale to [0, 1]."""
    pixels = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    resized = np.array(Image.fromarray(pixels).resize((size[1], size[0])))
    return torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float() / 255


def resize_target(
    image: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "1 3 H W"]:
    """Resize a target to 1024x1024 in 8 bits, and from there in float: bicubic, not antialiased, not clamped."""
    loaded = resize_in_uint8(image, (_LOADED_SIDE, _LOADED_SIDE), device)
    return F.interpolate(loaded, size=size, mode="bicubic")


def resize_reference(
    image: UInt8[Tensor, "3 H0 W0"], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "1 3 H W"]:
    """Resize the window around a reference in float: bicubic, not antialiased, not clamped."""
    return F.interpolate(image.to(device)[None].float() / 255, size=size, mode="bicubic")


def corner_points(points_per_side: int, image_size: int) -> Float[Tensor, "N 2"]:
    """Place points evenly from the first to the last pixel, half a pixel to the right and below; column by column.

    Args:
        points_per_side: Points along each side.
        image_size: Side of SAM2's square input, in pixels.

    Returns:
        x and y in pixels of the model's input, float32.

    Raises:
        ConfigError: `points_per_side` is less than 1.

    Examples:
        >>> corner_points(2, 8).tolist()
        [[0.5, 0.5], [0.5, 7.5], [7.5, 0.5], [7.5, 7.5]]
    """
    if points_per_side < 1:
        raise ConfigError(f"points_per_side is {points_per_side}, expected at least 1", remedy="32 is usual")
    ticks = torch.linspace(0, image_size - 1, points_per_side) + 0.5
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def truncated_window(
    box: tuple[float, float, float, float], height: int, width: int, scale: float
) -> tuple[int, int, int, int]:
    """Return the window around a reference's box: as `reference_window`, with all corners truncated to whole pixels.

    Args:
        box: x, y, width and height, in pixels.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        scale: Side of the square in longer box sides; the original's context_ratio plus 1.

    Returns:
        The first and one past the last column and row: x1, y1, x2, y2. At least one pixel each way, where the original
        fails.

    Examples:
        >>> truncated_window((10.7, 20.2, 40.6, 20.0), height=100, width=100, scale=1.2)
        (5, 5, 55, 54)
    """
    left, top = int(box[0]), int(box[1])
    right, bottom = int(box[0] + box[2]), int(box[1] + box[3])
    center_x, center_y = (left + right) * 0.5, (top + bottom) * 0.5
    half = max(right - left, bottom - top, 1) * scale * 0.5
    x1 = min(max(0, int(center_x - half)), width - 1)
    y1 = min(max(0, int(center_y - half)), height - 1)
    return (
        x1,
        y1,
        max(x1 + 1, min(width, int(center_x + half))),
        max(y1 + 1, min(height, int(center_y + half))),
    )


def fractional_mask(mask: Bool[Tensor, "H W"], size: tuple[int, int], grid: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Return how much each patch counts: the mask brought bilinearly to the encoder's size, then each patch's corner.

    A mask that all those corners miss, of which the original makes NaN, weighs every patch that it touches alike.

    Args:
        mask: The object in the window around it.
        size: Height and width in pixels at which the window is encoded.
        grid: Rows and columns of patches.
    """
    pixels = mask[None, None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear")
    weights = F.interpolate(resized, size=grid, mode="nearest")[0, 0]
    return weights if weights.any() else F.adaptive_max_pool2d(pixels, grid)[0, 0]
