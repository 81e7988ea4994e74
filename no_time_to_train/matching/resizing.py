"""Masks at the image's size, a band of rows at a time.

Hundreds of candidates at the size of a photograph are gigabytes; of them, only what two masks share and the best few
are wanted. So candidates are resized band by band, counted, and let go.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# Elements of a band: 16 MB in float32, which stays near the cache.
_BAND_ELEMENTS = 2**22


def resized_bands(
    mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]
) -> Iterator[Bool[Tensor, "N rows W"]]:
    """Bring mask logits to the image's size bilinearly, cut them at 0, and yield them from top to bottom.

    The same as ``F.interpolate(logits, image_size, mode="bilinear") > 0``, which cannot resize a part of an image.
    """
    height, width = image_size
    count, mask_height, _ = mask_logits.shape
    rows = max(1, _BAND_ELEMENTS // max(1, count * width))
    for start in range(0, height, rows):
        target = torch.arange(start, min(start + rows, height), device=mask_logits.device)
        source = ((target + 0.5) * (mask_height / height) - 0.5).clamp(min=0)
        above = source.long()
        below = (above + 1).clamp(max=mask_height - 1)
        first, last = int(above[0]), int(below[-1]) + 1
        columns = mask_logits[:, None, first:last].float()
        columns = F.interpolate(columns, size=(last - first, width), mode="bilinear")[:, 0]
        weight = (source - above)[:, None]
        yield columns[:, above - first] * (1 - weight) + columns[:, below - first] * weight > 0


def resize_masks(mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> Bool[Tensor, "N H W"]:
    """Bring mask logits to the image's size bilinearly, and cut them at 0."""
    masks = torch.empty((len(mask_logits), *image_size), dtype=torch.bool, device=mask_logits.device)
    start = 0
    for band in resized_bands(mask_logits, image_size):
        masks[:, start : start + band.shape[1]] = band
        start += band.shape[1]
    return masks


def intersections(mask_logits: Float[Tensor, "K Hm Wm"], image_size: tuple[int, int]) -> Float[Tensor, "K K"]:
    """Return how many pixels each two masks share at the image's size; on the diagonal, their own."""
    count = len(mask_logits)
    shared = torch.zeros((count, count), device=mask_logits.device)
    for band in resized_bands(mask_logits, image_size):
        flat = band.flatten(1).float()
        shared.addmm_(flat, flat.T)
    return shared
