"""Boxes of masks."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from no_time_to_train.matching.single_thread import single_threaded


@single_threaded()
def mask_boxes(masks: Bool[Tensor, "N H W"] | Float[Tensor, "N H W"]) -> Int[Tensor, "N 4"]:
    """Return the first and the last column and row that each mask touches, as x1, y1, x2, y2 in pixels.

    Args:
        masks: Masks or their logits; foreground above 0.

    Returns:
        Boxes, the far pixels included; of a mask without foreground (W, H, -1, -1).
    """
    values = masks.view(torch.uint8) if masks.dtype == torch.bool else masks
    ends = []
    for dim, size in ((1, masks.shape[2]), (2, masks.shape[1])):
        touched = values.amax(dim=dim) > 0
        places = torch.arange(size, device=masks.device)
        ends += [places.where(touched, size).amin(dim=1), places.where(touched, -1).amax(dim=1)]
    left, right, top, bottom = ends
    return torch.stack([left, top, right, bottom], dim=1)
