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

import numpy as np
from jaxtyping import Bool, Float, Int

from no_time_to_train.matching.array_ops import Array, array_namespace, as_float, as_like, device, is_numpy, take
from no_time_to_train.matching.interpolation import axis_weights
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
    full: Int[Array, " F"]
    cut: Int[Array, " C"]
    masks: Bool[Array, "C rows columns"]

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
    places: Int[Array, "K P"]
    weights: Float[Array, "K P"]


def _tile_side(mask_logits: Float[Array, "N Hm Wm"], image_size: tuple[int, int]) -> int:
    """Return the rows and columns of logits in a tile: fewer where masks are many or the image is large."""
    height, width = mask_logits.shape[1:]
    pixels_per_logit = math.prod(image_size) / (height * width)
    side, elements = _LIMITS.get(getattr(device(mask_logits), "type", "cpu"), _LIMITS["cpu"])
    while side > 1 and len(mask_logits) * pixels_per_logit * side**2 > elements:
        side //= 2
    return side


def pixel_reach(mask_size: tuple[int, int], image_size: tuple[int, int]) -> int:
    """Return how many rows or columns of logits apart two are at most that one pixel of the image is made of.

    Args:
        mask_size: Rows and columns of logits.
        image_size: Height and width of the image, in pixels.

    Examples:
        >>> pixel_reach((256, 256), (480, 640)), pixel_reach((256, 256), (480, 64))
        (1, 7)
    """
    return max(len(axis_weights(*axis)[1]) - 1 for axis in zip(mask_size, image_size, strict=True))


def _axis_steps(source: int, target: int, side: int, like: Array) -> list[_Steps]:
    """Divide an axis of `target` pixels by the tiles of its `source` logits; steps without a pixel are left out."""
    first, weights = axis_weights(source, target)
    reach = len(weights) - 1
    bounds = np.searchsorted(first, np.arange(0, source + side, side)).tolist()
    places = as_like((first + np.arange(reach + 1)[:, None]).clip(max=source - 1), like)
    weights = as_like(weights, like)
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
    mask_logits: Float[Array, "N Hm Wm"], rows: list[_Steps], columns: list[_Steps]
) -> tuple[Bool[Array, "rows columns N"], Bool[Array, "rows columns N"]]:
    """Return for each tile which masks have foreground among its logits, and which have nothing else."""
    xp = array_namespace(mask_logits)
    most, least = [], []
    for row in rows:
        band = mask_logits[:, row.logits]
        highest, lowest = xp.max(band, axis=1), xp.min(band, axis=1)
        most.append(xp.stack([xp.max(highest[:, column.logits], axis=1) for column in columns]))
        least.append(xp.stack([xp.min(lowest[:, column.logits], axis=1) for column in columns]))
    return xp.stack(most) > 0, xp.stack(least) > 0


def _interpolate(logits: Float[Array, "C h w"], row: _Steps, column: _Steps) -> Bool[Array, "C rows columns"]:
    """Resize a tile's logits and cut them at 0; products and sums alone, which round alike wherever a pixel is."""
    between = _interpolate_axis(logits, 2, column.places, column.weights)
    resized = _interpolate_axis(between, 1, row.places, row.weights[:, :, None])
    # Torch compares in place in a quarter of the time.
    return resized > 0 if is_numpy(resized) else resized.gt_(0).bool()


def _interpolate_axis(logits: Array, axis: int, places: Int[Array, "K P"], weights: Array) -> Array:
    total = take(logits, places[0], axis)
    total *= weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        part = take(logits, place, axis)
        part *= weight
        total += part
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
    def __init__(self, mask_logits: Float[Array, "N Hm Wm"], image_size: tuple[int, int]) -> None:
        self.mask_logits = mask_logits
        self.image_size = image_size
        side = _tile_side(mask_logits, image_size)
        self.rows = _axis_steps(mask_logits.shape[1], image_size[0], side, mask_logits)
        self.columns = _axis_steps(mask_logits.shape[2], image_size[1], side, mask_logits)
        self.some, self.every = _signs(mask_logits, self.rows, self.columns)

    def tiles(self, chosen: Int[Array, " K"]) -> Iterator[Tile]:
        """Yield the tiles in which any of the chosen masks may have foreground, in any order of these.

        Args:
            chosen: Indices of masks; the tiles' own indices are into these.
        """
        xp = array_namespace(self.mask_logits)
        every = self.every[:, :, chosen]
        cut = self.some[:, :, chosen] & ~every
        cuts, fulls = xp.sum(cut, axis=2).tolist(), xp.sum(every, axis=2).tolist()
        for i, row in enumerate(self.rows):
            for j, column in enumerate(self.columns):
                if cuts[i][j] or fulls[i][j]:
                    crossing = xp.nonzero(cut[i, j])[0]
                    logits = take(self.mask_logits[:, row.logits, column.logits], chosen[crossing], 0)
                    masks = _interpolate(as_float(logits), row, column)
                    yield Tile(row.pixels, column.pixels, xp.nonzero(every[i, j])[0], crossing, masks)

    @single_threaded()
    def resized(self, chosen: Int[Array, " K"]) -> Bool[Array, "K H W"]:
        """Return the chosen masks at the image's size."""
        xp = array_namespace(self.mask_logits)
        masks = xp.zeros((len(chosen), *self.image_size), dtype=xp.bool, device=device(self.mask_logits))
        for tile in self.tiles(chosen):
            part = masks[:, tile.rows, tile.columns]
            part[tile.full] = True
            part[tile.cut] = tile.masks
        return masks

    @single_threaded()
    def intersections(self, chosen: Int[Array, " K"]) -> Float[Array, "K K"]:
        """Return how many pixels each two of the chosen masks share at the image's size; on the diagonal, their own.

        Counts are exact up to 2**24 pixels, where float32 begins to round.
        """
        xp, count, where = array_namespace(self.mask_logits), len(chosen), device(self.mask_logits)
        shared = xp.zeros((count, count), dtype=xp.int64, device=where)
        for tile in self.tiles(chosen):
            product = _product(xp.reshape(tile.masks, (len(tile.cut), tile.area)))
            both = xp.concat([tile.cut, tile.full])
            # A mask that is the whole tile shares with another what the other has of it.
            block = xp.full((len(both), len(both)), tile.area, dtype=xp.int64, device=where)
            crossing = len(tile.cut)
            block[:crossing, :crossing] = product
            block[:crossing, crossing:] = product.diagonal()[:, None]
            block[crossing:, :crossing] = product.diagonal()
            shared[both[:, None], both] += block
        return as_float(shared)


def _product(masks: Bool[Array, "C P"]) -> Float[Array, "C C"] | Int[Array, "C C"]:
    """Return how many pixels each two masks share."""
    if not getattr(masks, "is_cuda", False):
        # Not in integers, which is quicker: on one processor torch 2.11 gave counts of 1e9 for masks of a few pixels. A
        # tile has far fewer pixels than float32 can count.
        flat = as_float(masks)
        return flat @ flat.T
    import torch
    import torch.nn.functional as F

    # A GPU's product of integers takes more than 16 rows, and multiples of 8.
    count, pixels = masks.shape
    whole = F.pad(masks.view(torch.int8), (0, -pixels % 8, 0, max(24 - count, -count % 8)))
    return torch._int_mm(whole, whole.T)[:count, :count]


def resize_masks(mask_logits: Float[Array, "N Hm Wm"], image_size: tuple[int, int]) -> Bool[Array, "N H W"]:
    """Bring mask logits to the image's size, bilinear and antialiased, and cut them at 0."""
    return TiledMasks(mask_logits, image_size).resized(_all(mask_logits))


def intersections(mask_logits: Float[Array, "K Hm Wm"], image_size: tuple[int, int]) -> Float[Array, "K K"]:
    """Return how many pixels each two masks share at the image's size; on the diagonal, their own."""
    return TiledMasks(mask_logits, image_size).intersections(_all(mask_logits))


def _all(mask_logits: Float[Array, "N Hm Wm"]) -> Int[Array, " N"]:
    return array_namespace(mask_logits).arange(len(mask_logits), device=device(mask_logits))
