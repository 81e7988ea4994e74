"""Resizing of maps and masks as torch's ``F.interpolate`` does it.

Bilinear, antialiased interpolation is linear and acts on each axis alone, so that resizing a map is
``rows @ map @ columns.T``.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from no_time_to_train.matching.array_ops import Array, as_like, is_numpy, take, to_numpy


def axis_weights(source: int, target: int) -> tuple[Int64[np.ndarray, " P"], Float32[np.ndarray, "K P"]]:
    """Return for each pixel of an axis the first of the K values that it is made of, and the weights of all K.

    Along an axis on which there are fewer pixels than values, a pixel averages all values that it covers. Weights past
    the border are 0.

    Args:
        source: Values along the axis.
        target: Pixels along the axis.
    """
    scale = source / target
    if scale <= 1:
        place = ((np.arange(target, dtype=np.float32) + 0.5) * scale - 0.5).clip(min=0)
        before = place.astype(np.int64)
        after = place - before.astype(np.float32)
        return before, np.stack([1 - after, after])
    # A triangle as wide as two pixels, cut at the border, as in torch's own interpolation.
    center = (np.arange(target) + 0.5) * scale
    first = (center - scale + 0.5).astype(np.int64).clip(min=0)
    last = (center + scale + 0.5).astype(np.int64).clip(max=source)
    places = first + np.arange((last - first).max())[:, None]
    weights = (1 - np.abs((places + 0.5 - center) / scale)).clip(min=0) * (places < last)
    return first, (weights / weights.sum(axis=0)).astype(np.float32)


def interpolation_matrix(source: int, target: int, like: Float[Array, "*any"]) -> Float[Array, "{target} {source}"]:
    """Return the matrix that resizes one axis, of the kind, the dtype and on the device of `like`."""
    if is_numpy(like):
        matrix = np.zeros((target, source), dtype=like.dtype)
        first, weights = axis_weights(source, target)
        for step, weight in enumerate(weights):
            matrix[np.arange(target), (first + step).clip(max=source - 1)] += weight
        return matrix
    import torch
    import torch.nn.functional as F

    identity = torch.eye(source, device=like.device, dtype=like.dtype)[None, None]
    # The identity's columns, resized as rows of one image: on inputs of width 1, torch 2.15 antialiases wrongly.
    return F.interpolate(identity, size=(target, source), mode="bilinear", antialias=True)[0, 0]


def resize_map(values: Float[Array, "h w"], size: tuple[int, int]) -> Float[Array, "H W"]:
    """Return a map resized to a height and width."""
    if is_numpy(values):
        rows, columns = (interpolation_matrix(*axis, values) for axis in zip(values.shape, size, strict=True))
        return rows @ values @ columns.T
    import torch.nn.functional as F

    return F.interpolate(values[None, None], size=size, mode="bilinear", antialias=True)[0, 0]


def nearest_pixels(values: Array, size: tuple[int, int], *, centered: bool) -> Array:
    """Return the pixel of an array (..., H, W) that each pixel of another height and width takes.

    Args:
        values: Of any dtype.
        size: The new height and width.
        centered: Take the pixel under the new one's center, as torch's ``nearest-exact``; if false the one under its
            top left corner, as torch's ``nearest``.
    """
    for axis, target in zip((values.ndim - 2, values.ndim - 1), size, strict=True):
        source = values.shape[axis]
        scale = np.float32(source / target)
        places = (np.arange(target, dtype=np.float32) + np.float32(0.5 if centered else 0)) * scale
        values = take(values, as_like(places.astype(np.int64).clip(max=source - 1), values), axis)
    return values


def window_means(values: Array, size: tuple[int, int]) -> Float[np.ndarray, "*any h w"]:
    """Return the mean over the pixels of an array (..., H, W) that each cell of a grid touches, in float64.

    Args:
        values: Numbers or booleans.
        size: Rows and columns of the grid.
    """
    sums: Any = np.asarray(values, dtype=np.float64)
    for axis, cells in ((-2, size[0]), (-1, size[1])):
        source = sums.shape[axis]
        first = np.arange(cells) * source // cells
        last = -(-(np.arange(cells) + 1) * source // cells)
        total = np.cumsum(np.insert(sums, 0, 0, axis=axis), axis=axis)
        counts = (last - first)[:, None] if axis == -2 else last - first
        sums = (total.take(last, axis) - total.take(first, axis)) / counts
    means: Float[np.ndarray, "*any h w"] = sums
    return means


def mask_on_grid(mask: Bool[Array, "H W"], grid: tuple[int, int]) -> Bool[Array, "h w"]:
    """Bring a mask to the patch grid, by one pixel for each patch.

    An object so small that it falls between those pixels keeps every patch that it touches.

    Args:
        mask: The object in the window around it.
        grid: Rows and columns of patches.
    """
    nearest = nearest_pixels(mask, grid, centered=False)
    return nearest if nearest.any() else touched_cells(mask, grid)


def touched_cells(mask: Bool[Array, "H W"], grid: tuple[int, int]) -> Bool[Array, "h w"]:
    """Return which cells of a grid a mask touches."""
    return as_like(window_means(to_numpy(mask), grid) > 0, mask)


def resize_features(features: Float[Array, "h w D"], size: tuple[int, int]) -> Float[Array, "P D"]:
    """Return features resized to a height and width, as rows of pixels."""
    if is_numpy(features):
        rows, columns = (interpolation_matrix(*axis, features) for axis in zip(features.shape, size, strict=False))
        resized: Any = np.einsum("yh,xw,hwd->yxd", rows, columns, features, optimize=True)
        return resized.reshape(-1, features.shape[2])
    import torch.nn.functional as F

    resized = F.interpolate(features.permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)
    return resized[0].flatten(1).T
