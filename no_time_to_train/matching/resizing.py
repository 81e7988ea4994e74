"""Masks at the image's size, a tile at a time.

Hundreds of candidates at the size of a photograph are gigabytes, and nearly all of it is uniform: bilinear
interpolation changes sign only between logits of different signs. So the image is cut into tiles; a mask that is
wholly foreground or wholly background there is only noted, and only those whose edge passes through it are resized.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from no_time_to_train.matching.threads import one_thread


class _Limits(NamedTuple):
    """How large a tile may be: smaller ones resize less, and are more to walk through.

    Attributes:
        side: Its rows and columns of logits.
        elements: Pixels of all masks in it, of 4 bytes each.
    """

    side: int
    elements: int


# A GPU resizes faster than it is told to: it gets as much as its memory bears, 1 GB.
_LIMITS = {"cpu": _Limits(32, 2**24), "cuda": _Limits(256, 2**28)}


class Tile(NamedTuple):
    """A rectangle of the image and what the masks are in it.

    Attributes:
        rows: Its rows of the image.
        columns: Its columns of the image.
        full: Indices of the masks that are foreground in all of it.
        cut: Indices of the masks that may be both in it.
        masks: Those of `cut`, at the image's size.
    """

    rows: slice
    columns: slice
    full: Int[Tensor, " F"]
    cut: Int[Tensor, " C"]
    masks: Bool[Tensor, "C rows columns"]

    @property
    def area(self) -> int:
        """Its pixels."""
        return len(range(self.rows.start, self.rows.stop)) * len(range(self.columns.start, self.columns.stop))


class _Steps(NamedTuple):
    """Pixels of one axis that lie between the logits of one step of tiles, and what they are interpolated from."""

    pixels: slice
    logits: slice
    before: Int[Tensor, " P"]
    after: Int[Tensor, " P"]
    weight: Float[Tensor, " P"]


def _tile_side(mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> int:
    """Return the rows and columns of logits in a tile: fewer where masks are many or the image is large."""
    height, width = mask_logits.shape[1:]
    pixels_per_logit = math.prod(image_size) / (height * width)
    side, elements = _LIMITS.get(mask_logits.device.type, _LIMITS["cpu"])
    while side > 1 and len(mask_logits) * pixels_per_logit * side**2 > elements:
        side //= 2
    return side


def _axis_steps(source: int, target: int, side: int, device: torch.device) -> list[_Steps]:
    """Divide an axis of `target` pixels by the tiles of its `source` logits; steps without a pixel are left out."""
    place = ((torch.arange(target, device=device) + 0.5) * (source / target) - 0.5).clamp(min=0)
    before = place.long().clamp(max=source - 1)
    after = (before + 1).clamp(max=source - 1)
    starts = torch.arange(0, source + side, side, device=device)
    bounds = torch.searchsorted(before, starts).tolist()
    return [
        _Steps(
            slice(low, high),
            slice(index * side, (index + 1) * side + 1),
            before[low:high] - index * side,
            after[low:high] - index * side,
            (place - before)[low:high],
        )
        for index, (low, high) in enumerate(pairwise(bounds))
        if low < high
    ]


def _signs(
    mask_logits: Float[Tensor, "N Hm Wm"], rows: list[_Steps], columns: list[_Steps]
) -> tuple[Bool[Tensor, "rows columns N"], Bool[Tensor, "rows columns N"]]:
    """Return for each tile which masks have foreground among its logits, and which have nothing else."""
    most, least = [], []
    for row in rows:
        band = mask_logits[:, row.logits]
        highest, lowest = band.amax(dim=1), band.amin(dim=1)
        most.append(torch.stack([highest[:, column.logits].amax(dim=1) for column in columns]))
        least.append(torch.stack([lowest[:, column.logits].amin(dim=1) for column in columns]))
    return torch.stack(most) > 0, torch.stack(least) > 0


def _interpolate(logits: Float[Tensor, "C h w"], row: _Steps, column: _Steps) -> Bool[Tensor, "C rows columns"]:
    """Resize a tile's logits and cut them at 0; products and sums alone, which round alike wherever a pixel lies."""
    left, right = logits.index_select(2, column.before), logits.index_select(2, column.after)
    between = left.mul_(1 - column.weight).add_(right.mul_(column.weight))
    above, below = between.index_select(1, row.before), between.index_select(1, row.after)
    return above.mul_((1 - row.weight)[:, None]).add_(below.mul_(row.weight[:, None])).gt_(0).bool()


class TiledMasks:
    """Masks at the image's size, tile by tile: ``F.interpolate(logits, image_size, mode="bilinear") > 0``.

    They are the same but for pixels whose logit is 0 up to rounding.

    Args:
        mask_logits: Foreground above 0, all finite.
        image_size: Height and width of the image, in pixels.
    """

    @one_thread()
    def __init__(self, mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> None:
        self.mask_logits = mask_logits
        self.image_size = image_size
        side = _tile_side(mask_logits, image_size)
        self.rows = _axis_steps(mask_logits.shape[1], image_size[0], side, mask_logits.device)
        self.columns = _axis_steps(mask_logits.shape[2], image_size[1], side, mask_logits.device)
        self.some, self.every = _signs(mask_logits, self.rows, self.columns)

    def tiles(self, chosen: Int[Tensor, " K"]) -> Iterator[Tile]:
        """Yield the tiles in which any of the chosen masks may have foreground, in any order of these.

        Args:
            chosen: Indices of masks; the tiles' own indices are into these.
        """
        every = self.every[:, :, chosen]
        cut = self.some[:, :, chosen] & ~every
        cuts, fulls = cut.sum(dim=2).tolist(), every.sum(dim=2).tolist()
        for i, row in enumerate(self.rows):
            for j, column in enumerate(self.columns):
                if cuts[i][j] or fulls[i][j]:
                    crossing = cut[i, j].nonzero()[:, 0]
                    logits = self.mask_logits[:, row.logits, column.logits].index_select(0, chosen[crossing])
                    masks = _interpolate(logits.float(), row, column)
                    yield Tile(row.pixels, column.pixels, every[i, j].nonzero()[:, 0], crossing, masks)

    @one_thread()
    def resized(self, chosen: Int[Tensor, " K"]) -> Bool[Tensor, "K H W"]:
        """Return the chosen masks at the image's size."""
        masks = torch.zeros((len(chosen), *self.image_size), dtype=torch.bool, device=self.mask_logits.device)
        for tile in self.tiles(chosen):
            part = masks[:, tile.rows, tile.columns]
            part.index_fill_(0, tile.full, True)
            part.index_copy_(0, tile.cut, tile.masks)
        return masks

    @one_thread()
    def intersections(self, chosen: Int[Tensor, " K"]) -> Float[Tensor, "K K"]:
        """Return how many pixels each two of the chosen masks share at the image's size; on the diagonal, their own.

        Counts are exact up to 2**24 pixels, where float32 begins to round.
        """
        count, device = len(chosen), self.mask_logits.device
        shared = torch.zeros((count, count), dtype=torch.long, device=device)
        for tile in self.tiles(chosen):
            product = _product(tile.masks.flatten(1))
            both = torch.cat([tile.cut, tile.full])
            # A mask that is the whole tile shares with another what the other has of it.
            block = torch.full((len(both), len(both)), tile.area, dtype=torch.int32, device=device)
            crossing = len(tile.cut)
            block[:crossing, :crossing] = product
            block[:crossing, crossing:] = product.diagonal()[:, None]
            block[crossing:, :crossing] = product.diagonal()
            shared.index_put_((both[:, None], both), block.long(), accumulate=True)
        return shared.float()


def _product(masks: Bool[Tensor, "C P"]) -> Int[Tensor, "C C"]:
    """Return how many pixels each two masks share, in int32."""
    count, pixels = masks.shape
    if masks.device.type not in _LIMITS:
        # A tile has far fewer pixels than float32 can count, also in TF32.
        return _float_product(masks)
    flat = masks.view(torch.int8)
    if masks.is_cuda:
        # The GPU's product of integers takes more than 16 rows, and multiples of 8.
        flat = F.pad(flat, (0, -pixels % 8, 0, max(24 - count, -count % 8)))
    product: Tensor = torch._int_mm(flat, flat.T)
    return product[:count, :count]


def _float_product(masks: Bool[Tensor, "C P"]) -> Int[Tensor, "C C"]:
    """Do the same in floats."""
    flat = masks.float()
    return (flat @ flat.T).int()


def resize_masks(mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> Bool[Tensor, "N H W"]:
    """Bring mask logits to the image's size bilinearly, and cut them at 0."""
    return TiledMasks(mask_logits, image_size).resized(torch.arange(len(mask_logits), device=mask_logits.device))


def intersections(mask_logits: Float[Tensor, "K Hm Wm"], image_size: tuple[int, int]) -> Float[Tensor, "K K"]:
    """Return how many pixels each two masks share at the image's size; on the diagonal, their own."""
    return TiledMasks(mask_logits, image_size).intersections(torch.arange(len(mask_logits), device=mask_logits.device))
