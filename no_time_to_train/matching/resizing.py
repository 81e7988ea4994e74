"""Masks at the image's size, a tile at a time.

Hundreds of candidates at the size of a photograph are gigabytes, and nearly all of it is uniform: bilinear
interpolation changes sign only between logits of different signs. So the image is cut into tiles; a mask that is
wholly foreground or wholly background there is only noted, and only those whose edge passes through it are resized.

Interpolation is antialiased: along an axis on which the image has fewer pixels than the mask, a pixel averages all
logits that it covers.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from no_time_to_train.matching.single_thread import single_threaded


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
    """Pixels of one axis that start at the logits of one step of tiles, and what they are interpolated from.

    Attributes:
        pixels: P pixels of the axis.
        logits: The logits that they are made of.
        places: For each pixel the places, within `logits`, of the K logits that it may be made of.
        weights: What each of the K counts; 0 for those that do not count.
    """

    pixels: slice
    logits: slice
    places: Int[Tensor, "K P"]
    weights: Float[Tensor, "K P"]


def _tile_side(mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> int:
    """Return the rows and columns of logits in a tile: fewer where masks are many or the image is large."""
    height, width = mask_logits.shape[1:]
    pixels_per_logit = math.prod(image_size) / (height * width)
    side, elements = _LIMITS.get(mask_logits.device.type, _LIMITS["cpu"])
    while side > 1 and len(mask_logits) * pixels_per_logit * side**2 > elements:
        side //= 2
    return side


def _axis_weights(source: int, target: int, device: torch.device) -> tuple[Int[Tensor, " P"], Float[Tensor, "K P"]]:
    """Return for each pixel of an axis the first logit that it is made of, and the weights of that one and the next.

    Args:
        source: Logits along the axis.
        target: Pixels along the axis.
        device: Of the results.
    """
    scale = source / target
    if scale <= 1:
        place = ((torch.arange(target, device=device) + 0.5) * scale - 0.5).clamp(min=0)
        before = place.long().clamp(max=source - 1)
        return before, torch.stack([1 - (place - before), place - before])
    # A triangle as wide as two pixels, cut at the border, as in torch's own interpolation.
    center = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    first = (center - scale + 0.5).long().clamp(min=0)
    last = (center + scale + 0.5).long().clamp(max=source)
    places = first + torch.arange(int((last - first).max()))[:, None]
    weights = (1 - ((places + 0.5 - center) / scale).abs()).clamp(min=0) * (places < last)
    return first.to(device), (weights / weights.sum(dim=0)).float().to(device)


def pixel_reach(mask_size: tuple[int, int], image_size: tuple[int, int]) -> int:
    """Return how many rows or columns of logits apart two are at most that one pixel of the image is made of.

    Args:
        mask_size: Rows and columns of logits.
        image_size: Height and width of the image, in pixels.

    Examples:
        >>> pixel_reach((256, 256), (480, 640)), pixel_reach((256, 256), (480, 64))
        (1, 7)
    """
    cpu = torch.device("cpu")
    return max(len(_axis_weights(*axis, cpu)[1]) - 1 for axis in zip(mask_size, image_size, strict=True))


def _axis_steps(source: int, target: int, side: int, device: torch.device) -> list[_Steps]:
    """Divide an axis of `target` pixels by the tiles of its `source` logits; steps without a pixel are left out."""
    first, weights = _axis_weights(source, target, device)
    reach = len(weights) - 1
    places = (first + torch.arange(reach + 1, device=device)[:, None]).clamp(max=source - 1)
    starts = torch.arange(0, source + side, side, device=device)
    bounds = torch.searchsorted(first, starts).tolist()
    return [
        _Steps(
            slice(low, high),
            slice(index * side, (index + 1) * side + reach),
            places[:, low:high] - index * side,
            weights[:, low:high],
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
    """Resize a tile's logits and cut them at 0; products and sums alone, which round alike wherever a pixel is."""
    between = _interpolate_axis(logits, 2, column.places, column.weights)
    return _interpolate_axis(between, 1, row.places, row.weights[:, :, None]).gt_(0).bool()


def _interpolate_axis(logits: Tensor, dim: int, places: Int[Tensor, "K P"], weights: Tensor) -> Tensor:
    total = logits.index_select(dim, places[0]).mul_(weights[0])
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total.add_(logits.index_select(dim, place).mul_(weight))
    return total


class TiledMasks:
    """Masks at the image's size, tile by tile.

    They are ``F.interpolate(logits, image_size, mode="bilinear", antialias=True) > 0`` but for pixels whose logit is 0
    up to rounding.

    Args:
        mask_logits: Foreground above 0, all finite.
        image_size: Height and width of the image, in pixels.
    """

    @single_threaded()
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

    @single_threaded()
    def resized(self, chosen: Int[Tensor, " K"]) -> Bool[Tensor, "K H W"]:
        """Return the chosen masks at the image's size."""
        masks = torch.zeros((len(chosen), *self.image_size), dtype=torch.bool, device=self.mask_logits.device)
        for tile in self.tiles(chosen):
            part = masks[:, tile.rows, tile.columns]
            part.index_fill_(0, tile.full, True)
            part.index_copy_(0, tile.cut, tile.masks)
        return masks

    @single_threaded()
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
    if not masks.is_cuda:
        # Not in integers, which is quicker: on one processor torch 2.11 gave counts of 1e9 for masks of a few pixels. A
        # tile has far fewer pixels than float32 can count.
        flat = masks.float()
        return (flat @ flat.T).int()
    # A GPU's product of integers takes more than 16 rows, and multiples of 8.
    count, pixels = masks.shape
    whole = F.pad(masks.view(torch.int8), (0, -pixels % 8, 0, max(24 - count, -count % 8)))
    product: Tensor = torch._int_mm(whole, whole.T)
    return product[:count, :count]


def resize_masks(mask_logits: Float[Tensor, "N Hm Wm"], image_size: tuple[int, int]) -> Bool[Tensor, "N H W"]:
    """Bring mask logits to the image's size, bilinear and antialiased, and cut them at 0."""
    return TiledMasks(mask_logits, image_size).resized(torch.arange(len(mask_logits), device=mask_logits.device))


def intersections(mask_logits: Float[Tensor, "K Hm Wm"], image_size: tuple[int, int]) -> Float[Tensor, "K K"]:
    """Return how many pixels each two masks share at the image's size; on the diagonal, their own."""
    return TiledMasks(mask_logits, image_size).intersections(torch.arange(len(mask_logits), device=mask_logits.device))
