"""Pooling patch features over masks, and comparing them with the classes of a memory bank."""

from jaxtyping import Bool, Float

from no_time_to_train.errors import EncoderMismatchError
from no_time_to_train.matching.array_ops import (
    Array,
    array_namespace,
    as_float,
    as_like,
    device,
    foreground_of,
    max_by_class,
)
from no_time_to_train.matching.boxes import mask_boxes
from no_time_to_train.matching.interpolation import interpolation_matrix, resize_features
from no_time_to_train.matching.memory_bank import MemoryBank
from no_time_to_train.matching.single_thread import single_threaded

# Of masks that a GPU brings to the patch grid together: 256 MB in float32.
_MOST_PIXELS = 2**26


@single_threaded()
def pool_masks(
    patches: Float[Array, "h w D"], masks: Bool[Array, "N Hm Wm"] | Float[Array, "N Hm Wm"]
) -> Float[Array, "N D"]:
    """Average the patch features over each mask, as if they were upsampled to the masks' resolution first.

    Instead of upsampling D feature maps, each mask is brought down to the patch grid by the transposed interpolation,
    which gives the same sums: ``sum(mask * (R f C')) = sum((R' mask C) * f)``. Nothing but a mask's box is read.

    Args:
        patches: Patch features on their grid, any scale.
        masks: Masks or their logits, foreground above 0; every mask has some.

    Returns:
        Means over the foreground, in float32, not normalised.
    """
    height, width, dim = patches.shape
    features, reshape = as_float(patches), array_namespace(patches).reshape
    rows = interpolation_matrix(height, masks.shape[1], features)
    columns = interpolation_matrix(width, masks.shape[2], features)
    weights, areas = _grid_weights(masks, rows, columns)
    pixels = height * width
    return reshape(weights, (len(masks), pixels)) @ reshape(features, (pixels, dim)) / areas[:, None]


def pool_upsampled(
    patches: Float[Array, "h w D"], masks: Bool[Array, "N Hm Wm"] | Float[Array, "N Hm Wm"]
) -> Float[Array, "N D"]:
    """Average the patch features over each mask by upsampling them, which takes D floats for each pixel of a mask.

    The same as `pool_masks` up to rounding, in the original's order of computation. Of two masks with nearly the same
    features, one within the other, the merged score is the root of a small difference, in which rounding shows.

    Args:
        patches: Patch features on their grid, any scale.
        masks: Masks or their logits, foreground above 0; every mask has some.

    Returns:
        Means over the foreground, in float32, not normalised.
    """
    xp = array_namespace(masks)
    resized = resize_features(as_float(patches), (masks.shape[1], masks.shape[2]))
    foreground = as_float(xp.reshape(masks > 0, (len(masks), len(resized))))
    return foreground @ resized / xp.sum(foreground, axis=1, keepdims=True)


def _grid_weights(
    masks: Bool[Array, "N Hm Wm"] | Float[Array, "N Hm Wm"],
    rows: Float[Array, "Hm h"],
    columns: Float[Array, "Wm w"],
) -> tuple[Float[Array, "N h w"], Float[Array, " N"]]:
    """Bring each mask down to the patch grid, and count its pixels."""
    if getattr(masks, "is_cuda", False):
        return _grid_weights_together(masks, rows, columns)
    xp = array_namespace(rows)
    weights = xp.empty((len(masks), rows.shape[1], columns.shape[1]), dtype=xp.float32, device=device(rows))
    areas = xp.empty(len(masks), dtype=xp.float32, device=device(rows))
    for index, (mask, box) in enumerate(zip(masks, mask_boxes(masks).tolist(), strict=True)):
        x, y = slice(box[0], box[2] + 1), slice(box[1], box[3] + 1)
        foreground = foreground_of(mask[y, x])
        areas[index] = foreground.sum()
        weights[index] = rows[y].T @ (foreground @ columns[x])
    return weights, areas


def _grid_weights_together(
    masks: Bool[Array, "N Hm Wm"] | Float[Array, "N Hm Wm"],
    rows: Float[Array, "Hm h"],
    columns: Float[Array, "Wm w"],
) -> tuple[Float[Array, "N h w"], Float[Array, " N"]]:
    """Do the same in a few products over whole masks: a GPU waits longer for one small product than it computes."""
    xp = array_namespace(masks)
    at_once = max(1, _MOST_PIXELS // (masks.shape[1] * masks.shape[2]))
    parts = []
    for start in range(0, max(1, len(masks)), at_once):
        foreground = as_float(masks[start : start + at_once] > 0)
        parts.append((rows.T @ (foreground @ columns), xp.sum(foreground, axis=(1, 2))))
    weights, areas = zip(*parts, strict=True)
    return xp.concat(weights), xp.concat(areas)


def class_similarity(pooled: Float[Array, "N D"], memory: MemoryBank) -> Float[Array, "N C"]:
    """Return the cosine of L2-normalised pooled features with every class's prototype.

    Raises:
        EncoderMismatchError: The features are of another width than the bank's.
        EmptyClassError: A class of the bank has no reference.
    """
    prototypes = as_like(memory.prototypes, pooled)
    if pooled.shape[1] != prototypes.shape[1]:
        raise EncoderMismatchError(
            f"the target's features are {pooled.shape[1]} wide, the memory bank's {prototypes.shape[1]}",
            remedy="fill the memory bank with the encoder in use",
        )
    return pooled @ prototypes.T


def negative_penalty(
    pooled: Float[Array, "N D"], cosines: Float[Array, "N C"], memory: MemoryBank, *, sigma: float = 0.8
) -> Float[Array, "N C"]:
    """Return by what a score is multiplied for resembling a negative reference of the class.

    Args:
        pooled: L2-normalised features of masks.
        cosines: Theirs with the classes' prototypes.
        memory: A bank; classes without negative references keep a factor of 1.
        sigma: The wider, the less a negative reference takes away.

    Returns:
        ``exp(-max(0, negative - positive) / sigma)``, `negative` being the best cosine with a negative reference of
        the class, both clamped at 0.
    """
    xp = array_namespace(pooled)
    directions, classes = (as_like(part, pooled) for part in memory.negative_directions)
    if not len(directions):
        return xp.ones_like(cosines)
    negative = max_by_class((pooled @ directions.T).clip(min=0), classes, cosines.shape[1])
    return xp.exp(-(negative - cosines.clip(min=0)).clip(min=0) / sigma)
