"""Where masks change between background and foreground, found where the masks are."""

import numpy as np
from jaxtyping import Bool, Int64

from no_time_to_train.matching.array_ops import Array, array_namespace, to_numpy

# Pixels that are looked at together, of one byte each and 8 more for each change.
_TOGETHER = 2**28


def mask_changes(masks: Bool[Array, "N H W"]) -> tuple[Int64[np.ndarray, " changes"], Int64[np.ndarray, " N"]]:
    """Return where masks change, for `data.masks.encode_changes`.

    A GPU finds them in the time in which it would hand over a small part of the pixels.

    Args:
        masks: On any device.

    Returns:
        Down the columns of one mask after the other, the pixels that differ from the one before, which is background
        before a mask's first; and how many there are in each mask.
    """
    xp = array_namespace(masks)
    count, height, width = masks.shape
    pixels = height * width
    places, numbers = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    at_once = max(1, _TOGETHER // pixels)
    for start in range(0, count, at_once):
        some = masks[start : start + at_once]
        columns = xp.reshape(xp.permute_dims(some, (0, 2, 1)), (len(some), pixels))
        changed = xp.concat([columns[:, :1], columns[:, 1:] ^ columns[:, :-1]], axis=1)
        numbers.append(to_numpy(xp.sum(changed, axis=1)))
        places.append(to_numpy(xp.nonzero(xp.reshape(changed, (-1,)))[0]) + start * pixels)
    return np.concatenate(places), np.concatenate(numbers)
