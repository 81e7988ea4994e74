"""Where masks change between background and foreground, found where the masks are."""

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

# Pixels that are looked at together, of one byte each and 8 more for each change.
_TOGETHER = 2**28


def mask_changes(masks: Bool[Tensor, "N H W"]) -> tuple[Int64[np.ndarray, " changes"], Int64[np.ndarray, " N"]]:
    """Return where masks change, for `data.masks.encode_changes`.

    A GPU finds them in the time in which it would hand over a small part of the pixels.

    Args:
        masks: On any device.

    Returns:
        Down the columns of one mask after the other, the pixels that differ from the one before, which is background
        before a mask's first; and how many there are in each mask.
    """
    count, height, width = masks.shape
    pixels = height * width
    places, numbers = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    at_once = max(1, _TOGETHER // pixels)
    for start in range(0, count, at_once):
        columns = masks[start : start + at_once].transpose(1, 2).flatten(1)
        changed = columns.clone()
        changed[:, 1:] ^= columns[:, :-1]
        numbers.append(changed.sum(dim=1).cpu().numpy())
        places.append(changed.flatten().nonzero()[:, 0].cpu().numpy() + start * pixels)
    return np.concatenate(places), np.concatenate(numbers)
