"""Pooling patch features over masks, and comparing them with the classes of a memory bank."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from no_time_to_train.errors import EncoderMismatchError
from no_time_to_train.matching.boxes import mask_boxes
from no_time_to_train.matching.memory_bank import MemoryBank
from no_time_to_train.matching.single_thread import single_threaded

# Of masks that a GPU brings to the patch grid together: 256 MB in float32.
_MOST_PIXELS = 2**26


def interpolation_matrix(
    source: int, target: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "target source"]:
    """Return the matrix by which bilinear antialiased interpolation resizes one axis.

    Interpolation is linear and acts on each axis alone, so that resizing a map is ``rows @ map @ columns.T``.
    """
    identity = torch.eye(source, device=device, dtype=dtype)[None, None]
    # The identity's columns, resized as rows of one image: on inputs of width 1, torch 2.15 antialiases wrongly.
    return F.interpolate(identity, size=(target, source), mode="bilinear", antialias=True)[0, 0]


@single_threaded()
def pool_masks(
    patches: Float[Tensor, "h w D"], masks: Bool[Tensor, "N Hm Wm"] | Float[Tensor, "N Hm Wm"]
) -> Float[Tensor, "N D"]:
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
    features = patches.float().reshape(-1, dim)
    rows = interpolation_matrix(height, masks.shape[1], device=patches.device)
    columns = interpolation_matrix(width, masks.shape[2], device=patches.device)
    weights, areas = _grid_weights(masks, rows, columns)
    return weights.flatten(1) @ features / areas[:, None]


def pool_upsampled(
    patches: Float[Tensor, "h w D"], masks: Bool[Tensor, "N Hm Wm"] | Float[Tensor, "N Hm Wm"]
) -> Float[Tensor, "N D"]:
    """Average the patch features over each mask by upsampling them, which takes D floats for each pixel of a mask.

    The same as `pool_masks` up to rounding, in the original's order of computation. Of two masks with nearly the same
    features, one within the other, the merged score is the root of a small difference, in which rounding shows.

    Args:
        patches: Patch features on their grid, any scale.
        masks: Masks or their logits, foreground above 0; every mask has some.

    Returns:
        Means over the foreground, in float32, not normalised.
    """
    size = (masks.shape[1], masks.shape[2])
    upsampled = F.interpolate(patches.float().permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)
    foreground = (masks > 0).flatten(1).float()
    return foreground @ upsampled[0].flatten(1).T / foreground.sum(dim=1, keepdim=True)


def _grid_weights(
    masks: Bool[Tensor, "N Hm Wm"] | Float[Tensor, "N Hm Wm"],
    rows: Float[Tensor, "Hm h"],
    columns: Float[Tensor, "Wm w"],
) -> tuple[Float[Tensor, "N h w"], Float[Tensor, " N"]]:
    """Bring each mask down to the patch grid, and count its pixels."""
    if masks.is_cuda:
        return _grid_weights_together(masks, rows, columns)
    weights = torch.empty((len(masks), rows.shape[1], columns.shape[1]), device=masks.device)
    areas = torch.empty(len(masks), device=masks.device)
    for mask, box, weight, area in zip(masks, mask_boxes(masks).tolist(), weights, areas, strict=True):
        x, y = slice(box[0], box[2] + 1), slice(box[1], box[3] + 1)
        foreground = torch.empty_like(mask[y, x], dtype=torch.float32)
        torch.gt(mask[y, x], 0, out=foreground)
        area.copy_(foreground.sum())
        weight.copy_(rows[y].T @ (foreground @ columns[x]))
    return weights, areas


def _grid_weights_together(
    masks: Bool[Tensor, "N Hm Wm"] | Float[Tensor, "N Hm Wm"],
    rows: Float[Tensor, "Hm h"],
    columns: Float[Tensor, "Wm w"],
) -> tuple[Float[Tensor, "N h w"], Float[Tensor, " N"]]:
    """Do the same in a few products over whole masks: a GPU waits longer for one small product than it computes."""
    at_once = max(1, _MOST_PIXELS // masks[0].numel()) if len(masks) else 1
    parts = []
    for some in torch.split(masks, at_once):
        foreground = (some > 0).float()
        parts.append((rows.T @ (foreground @ columns), foreground.sum(dim=(1, 2))))
    weights, areas = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(areas)


def class_cosines(pooled: Float[Tensor, "N D"], memory: MemoryBank) -> Float[Tensor, "N C"]:
    """Return the cosine of L2-normalised pooled features with every class's prototype.

    Raises:
        EncoderMismatchError: The features are of another width than the bank's.
        EmptyClassError: A class of the bank has no reference.
    """
    prototypes = memory.prototypes
    if pooled.shape[1] != prototypes.shape[1]:
        raise EncoderMismatchError(
            f"the target's features are {pooled.shape[1]} wide, the memory bank's {prototypes.shape[1]}",
            remedy="fill the memory bank with the encoder in use",
        )
    return pooled @ prototypes.T


def negative_factors(
    pooled: Float[Tensor, "N D"], cosines: Float[Tensor, "N C"], memory: MemoryBank, *, sigma: float = 0.8
) -> Float[Tensor, "N C"]:
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
    directions, classes = memory.negative_directions
    if not len(directions):
        return torch.ones_like(cosines)
    per_reference = (pooled @ directions.T).clamp_(min=0)
    negative = torch.zeros_like(cosines).scatter_reduce_(1, classes.expand_as(per_reference), per_reference, "amax")
    return torch.exp(-(negative - cosines.clamp(min=0)).clamp(min=0) / sigma)
