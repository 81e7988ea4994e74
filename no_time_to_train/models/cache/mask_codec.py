"""Mask logits kept as their outlines only, from which the masks come back the same at the image's size.

A mask at the image's size is its logits, resized bilinearly and cut at 0. In an image that is not smaller than the
mask, each pixel is weighed out of four logits that touch: between four that are not positive it is outside, between
four that are positive inside, whatever their values. So values are kept only where signs change within one logit, and
elsewhere only the sign. A pixel of a smaller image is weighed out of more logits: there values are kept where signs
change within the reach of a pixel, see `pixel_reach`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Int, UInt8

from no_time_to_train.matching.array_ops import Array, as_float, as_like, on_cpu, to_numpy
from no_time_to_train.proposers.base import MaskProposals

_SURE = 10.0  # the logit of what is wholly inside; outside, its negative
_CHUNK = 2**18  # pixels that are looked at together: their bytes stay in the cache of a core


def pack_masks(masks: MaskProposals, reach: int = 1) -> dict[str, Array]:
    """Keep of mask logits what their masks at the image's size depend on.

    Args:
        masks: Logits that are finite, those above 0 at least 1e-30; on any device. There may be no masks, and masks
            without foreground.
        reach: As `pixel_reach` gives it for the image; 1 for any that is not smaller than the masks.

    Returns:
        Arrays of the masks' kind, on the CPU:
        size: N, Hm, Wm, int64.
        runs: Lengths, in pixels, of the stretches that are by turns outside and inside, of all masks row by row, one
            after the other; the first is outside and may be 0; int32, or int64 from 2^31 pixels on.
        outlines: The logits with another sign than one that is `reach` rows and columns away or nearer, in the same
            order, float32.
        predicted_iou: (N,) float32.
    """
    logits: np.ndarray = np.ascontiguousarray(to_numpy(as_float(masks.mask_logits)))
    inside = logits > 0
    values = [logits[part][_outlines(inside[part], reach)] for part in _parts(logits.shape)]
    packed = {
        "size": np.asarray(logits.shape, dtype=np.int64),
        "runs": _runs(inside.reshape(-1)),
        "outlines": np.concatenate([*values, np.empty(0, np.float32)]),
        "predicted_iou": to_numpy(as_float(masks.predicted_iou)),
    }
    like = on_cpu(masks.predicted_iou)
    return {name: as_like(part, like) for name, part in packed.items()}


def unpack_masks(tensors: Mapping[str, Array], reach: int = 1) -> MaskProposals:
    """Make masks of what `pack_masks` kept.

    Resized to the image's size and cut at 0 they are bit by bit those that were packed. Elsewhere than at the
    outlines, the logits are 10 and -10.

    Args:
        tensors: As `pack_masks` returned them, or as tensors of torch on the CPU, which the masks are then too.
        reach: As it was given to `pack_masks`.

    Raises:
        ValueError: The outlines are of other masks.
    """
    runs, values = to_numpy(tensors["runs"]), to_numpy(tensors["outlines"])
    shape = tuple(tensors["size"].tolist())
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)
    logits = np.empty(shape, dtype=np.float32)
    start = 0
    for part in _parts(shape):
        outlines = _outlines(inside[part], reach)
        stop = start + int(np.count_nonzero(outlines))
        logits[part] = np.where(inside[part], np.float32(_SURE), np.float32(-_SURE))
        logits[part][outlines] = values[start:stop]
        start = stop
    if start != len(values):
        raise ValueError(f"expected {start} values for the masks' outlines, got {len(values)}")
    return MaskProposals(as_like(logits, tensors["outlines"]), tensors["predicted_iou"])


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Split N masks of a size into a few at a time."""
    count, height, width = shape
    step = max(1, _CHUNK // max(1, height * width))
    return (slice(start, start + step) for start in range(0, count, step))


def _outlines(inside: Bool[np.ndarray, "N Hm Wm"], reach: int) -> Bool[np.ndarray, "N Hm Wm"]:
    """Return where a logit and those within reach of it, over corners too, are not all inside and not all outside."""
    of_nine = _sum_of_nine(inside.view(np.uint8))
    # From 1 to 8: what is 0 becomes 255.
    of_nine -= 1
    outlines: Bool[np.ndarray, "N Hm Wm"] = of_nine < 8
    for _ in range(reach - 1):
        outlines = _sum_of_nine(outlines.view(np.uint8)) > 0
    return outlines


def _sum_of_nine(counts: UInt8[np.ndarray, "N rows columns"]) -> UInt8[np.ndarray, "N rows columns"]:
    return _sum_of_three(_sum_of_three(counts).swapaxes(1, 2)).swapaxes(1, 2)


def _sum_of_three(counts: UInt8[np.ndarray, "N rows columns"]) -> UInt8[np.ndarray, "N rows columns"]:
    """Add to each pixel the one before and the one after in its row; beyond the border, itself."""
    total = counts.copy(order="K")
    total[..., 1:] += counts[..., :-1]
    total[..., :-1] += counts[..., 1:]
    total[..., :1] += counts[..., :1]
    total[..., -1:] += counts[..., -1:]
    return total


def _runs(inside: Bool[np.ndarray, " pixels"]) -> Int[np.ndarray, " runs"]:
    """Return the lengths of stretches of one sign, the first of them outside."""
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    begin = [0, 0] if len(inside) and inside[0] else [0]
    bounds = np.concatenate([np.array(begin), changes, np.array([len(inside)])])
    return np.diff(bounds).astype(np.int32 if len(inside) < 2**31 else np.int64)
