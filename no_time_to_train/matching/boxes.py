"""Boxes of masks, and suppression of those that overlap (NMS)."""

import numpy as np
from jaxtyping import Bool, Float, Int

from no_time_to_train.matching.array_ops import Array, array_namespace, device, is_numpy
from no_time_to_train.matching.single_thread import single_threaded


@single_threaded()
def mask_boxes(masks: Bool[Array, "N H W"] | Float[Array, "N H W"]) -> Int[Array, "N 4"]:
    """Return the first and the last column and row that each mask touches, as x1, y1, x2, y2 in pixels.

    Args:
        masks: Masks or their logits; foreground above 0.

    Returns:
        Boxes, the far pixels included; of a mask without foreground (W, H, -1, -1).
    """
    xp = array_namespace(masks)
    values = masks.view(xp.uint8) if masks.dtype == xp.bool else masks
    ends = []
    for axis, size in ((1, masks.shape[2]), (2, masks.shape[1])):
        touched = xp.max(values, axis=axis) > 0
        places = xp.arange(size, device=device(masks))
        ends += [xp.min(xp.where(touched, places, size), axis=1), xp.max(xp.where(touched, places, -1), axis=1)]
    left, right, top, bottom = ends
    return xp.stack([left, top, right, bottom], axis=1)


def batched_nms(
    boxes: Float[Array, "N 4"], scores: Float[Array, " N"], labels: Int[Array, " N"], threshold: float
) -> Int[Array, " K"]:
    """Return the boxes that no better one of their class overlaps by an IoU above the threshold, best first."""
    if not is_numpy(boxes):
        from torchvision.ops import batched_nms as torch_nms

        return torch_nms(boxes, scores, labels, threshold)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.prod(sides.clip(min=0), axis=1)
        with np.errstate(invalid="ignore"):  # two boxes of no area have no IoU, which is above no threshold
            iou = shared / (areas[best] + areas[rest] - shared)
        # In float64, as torchvision compares.
        order = rest[~(iou.astype(np.float64) > threshold) | (labels[rest] != labels[best])]
    return np.asarray(kept, dtype=np.int64)
