"""Boxes of masks."""

from jaxtyping import Bool, Float, Int

from no_time_to_train.matching.array_ops import Array, array_namespace, device
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
