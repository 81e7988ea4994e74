"""Bilinear, antialiased interpolation, as torch's ``F.interpolate(mode="bilinear", antialias=True)``.

It is linear and acts on each axis alone, so that resizing a map is ``rows @ map @ columns.T``.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from no_time_to_train.matching.array_ops import Array, is_numpy


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


def resize_features(features: Float[Array, "h w D"], size: tuple[int, int]) -> Float[Array, "P D"]:
    """Return features resized to a height and width, as rows of pixels."""
    if is_numpy(features):
        rows, columns = (interpolation_matrix(*axis, features) for axis in zip(features.shape, size, strict=False))
        resized: Any = np.einsum("yh,xw,hwd->yxd", rows, columns, features, optimize=True)
        return resized.reshape(-1, features.shape[2])
    import torch.nn.functional as F

    resized = F.interpolate(features.permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)
    return resized[0].flatten(1).T
