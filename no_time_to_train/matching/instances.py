"""From candidate masks to instances: pool, score, suppress, merge softly.

Source: the method of no-time-to-train, arXiv 2507.02798, section 3; on the inputs of
tests/matching/test_golden.py, outputs agree with its code at 214fc79.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from no_time_to_train.errors import MaskSizeError
from no_time_to_train.matching.boxes import mask_boxes
from no_time_to_train.matching.memory_bank import MemoryBank
from no_time_to_train.matching.precision import full_precision
from no_time_to_train.matching.resizing import TiledMasks
from no_time_to_train.matching.similarity import class_cosines, negative_factors, pool_masks

_NMS_KEEP_FACTOR = 8

# Takes patch features and the logits of masks; gives the mean of the features over each mask.
Pool: TypeAlias = Callable[[Float[Tensor, "h w D"], Float[Tensor, "N Hm Wm"]], Float[Tensor, "N D"]]


@dataclass(frozen=True)
class Instances:
    """What was found in one image, best first.

    Attributes:
        masks: At the image's size.
        boxes: Of the masks, in pixels: the first and the last column and row that the mask touches (x1, y1, x2, y2).
        scores: In [0, 1].
        labels: Indices into the memory bank's class names.
    """

    masks: Bool[Tensor, "M H W"]
    boxes: Float[Tensor, "M 4"]
    scores: Float[Tensor, " M"]
    labels: Int[Tensor, " M"]

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> "Instances":
        """Return the same instances on another device."""
        return Instances(*(value.to(device) for value in (self.masks, self.boxes, self.scores, self.labels)))

    @classmethod
    def empty(cls, image_size: tuple[int, int], device: torch.device | str = "cpu") -> "Instances":
        """Return no instances, for an image of that height and width."""
        return cls(
            masks=torch.zeros((0, *image_size), dtype=torch.bool, device=device),
            boxes=torch.zeros((0, 4), device=device),
            scores=torch.zeros(0, device=device),
            labels=torch.zeros(0, dtype=torch.long, device=device),
        )


@torch.inference_mode()
@full_precision()
def match_masks(
    patches: Float[Tensor, "h w D"],
    mask_logits: Float[Tensor, "N Hm Wm"],
    predicted_iou: Float[Tensor, " N"],
    memory: MemoryBank,
    *,
    image_size: tuple[int, int],
    nms_threshold: float = 0.5,
    max_instances: int = 100,
    negative_sigma: float = 0.8,
    pool: Pool = pool_masks,
) -> Instances:
    """Give candidate masks the class whose prototype they resemble most, and keep the best of those that overlap.

    Each mask is pooled and scored; box NMS within a class, ordered by predicted IoU, leaves at most eight times
    `max_instances`; masks that resemble no class, whose scores are 0, go; a mask within one of its class ranked before
    it loses score by how much of it is there and by how alike the two are; the best `max_instances` remain.

    Args:
        patches: The target's patch features.
        mask_logits: Candidates over the whole image at any resolution; foreground above 0.
        predicted_iou: SAM2's own estimate of each mask's quality.
        memory: The references' bank.
        image_size: Height and width of the image, in pixels.
        nms_threshold: Box IoU above which the mask of lower predicted IoU goes.
        max_instances: Most instances to return.
        negative_sigma: How softly negative references count.
        pool: Averages features over masks, `pool_masks` or, in the original's order of computation, `pool_upsampled`.

    Returns:
        Instances at the image's size; empty when no mask has foreground and resembles a class.

    Raises:
        EncoderMismatchError: The features are of another width than the bank's.
        EmptyClassError: A class of the bank has no reference.
        MaskSizeError: Masks and predicted IoUs differ in number.
    """
    if mask_logits.ndim != 3 or predicted_iou.shape != mask_logits.shape[:1]:
        raise MaskSizeError(
            f"mask logits of shape {tuple(mask_logits.shape)} with predicted IoUs of shape "
            f"{tuple(predicted_iou.shape)}, expected (N, Hm, Wm) and (N,)",
            remedy="give one predicted IoU per mask",
        )
    boxes, logits, filled = _with_foreground(mask_logits)
    quality = predicted_iou[filled].float()
    pooled = F.normalize(pool(patches, logits), dim=1)
    # Without any mask too, a bank of another encoder or with an empty class is refused here.
    cosines = class_cosines(pooled, memory)
    if not len(logits):
        return Instances.empty(image_size, mask_logits.device)
    factors = negative_factors(pooled, cosines, memory, sigma=negative_sigma)
    scores, labels = (cosines.clamp(min=0) * factors).max(dim=1)
    ranked = batched_nms(boxes.float(), quality, labels, nms_threshold)[: _NMS_KEEP_FACTOR * max_instances]
    # Without a positive cosine the label is only the first class, whose objects these masks must not touch below.
    ranked = ranked[scores[ranked] > 0]
    if not len(ranked):
        return Instances.empty(image_size, mask_logits.device)
    tiled = TiledMasks(logits, image_size)
    shared = tiled.intersections(ranked)
    merged = scores[ranked] * merge_factors(shared, pooled[ranked], labels[ranked])
    # What has no pixel at the image's size takes no place among the best.
    best = merged.masked_fill(shared.diagonal() == 0, -1).argsort(descending=True, stable=True)[:max_instances]
    return _visible(tiled.resized(ranked[best]), merged[best], labels[ranked][best])


@torch.inference_mode()
@full_precision()
def match_mask_pairs(
    patches: Float[Tensor, "h w D"],
    mask_logits: Float[Tensor, "N Hm Wm"],
    memory: MemoryBank,
    *,
    image_size: tuple[int, int],
    max_instances: int = 100,
    negative_sigma: float = 0.8,
) -> Instances:
    """Score every pair of a mask and a class, and keep the best; for masks that are already free of doubles.

    Args:
        patches: The target's patch features, L2-normalised.
        mask_logits: Candidates over the whole image at any resolution; foreground above 0.
        memory: The references' bank, filled with L2-normalised features.
        image_size: Height and width of the image, in pixels.
        max_instances: Most instances to return; a mask may stand among them once per class.
        negative_sigma: How softly negative references count.

    Returns:
        Instances at the image's size, scored by (cosine + 1) / 2; empty when no mask has foreground.

    Raises:
        EncoderMismatchError: The features are of another width than the bank's.
        EmptyClassError: A class of the bank has no reference.
    """
    _, logits, _ = _with_foreground(mask_logits)
    pooled = F.normalize(pool_masks(patches, logits), dim=1)
    cosines = class_cosines(pooled, memory)
    if not len(logits):
        return Instances.empty(image_size, mask_logits.device)
    factors = negative_factors(pooled, cosines, memory, sigma=negative_sigma)
    scores, pairs = ((cosines + 1) / 2 * factors).flatten().sort(descending=True, stable=True)
    pairs = pairs[:max_instances]
    rows, labels = pairs // cosines.shape[1], pairs % cosines.shape[1]
    distinct, positions = torch.unique(rows, return_inverse=True)
    full = TiledMasks(logits, image_size).resized(distinct)[positions]
    return _visible(full, scores[:max_instances], labels)


def merge_factors(
    shared: Float[Tensor, "K K"], pooled: Float[Tensor, "K D"], labels: Int[Tensor, " K"]
) -> Float[Tensor, " K"]:
    """Return by what each mask's score is multiplied for its overlap with the masks ranked before it.

    Args:
        shared: Pixels that each two masks share, in the order of their rank; their own on the diagonal.
        pooled: Their L2-normalised features.
        labels: Their classes; only masks of one class count against each other.
    """
    within = shared / shared.diagonal().clamp(min=1)[:, None]
    alike = (pooled @ pooled.T).clamp(min=0)
    counts = labels[:, None] == labels[None, :]
    overlap = (within * alike * counts).tril(diagonal=-1).amax(dim=1)
    return (1 - overlap).clamp(min=0).sqrt()


def _with_foreground(
    mask_logits: Float[Tensor, "N Hm Wm"],
) -> tuple[Int[Tensor, "M 4"], Float[Tensor, "M Hm Wm"], Int[Tensor, " M"]]:
    """Return the boxes, the logits and the indices of the masks that have foreground."""
    boxes = mask_boxes(mask_logits)
    filled = (boxes[:, 2] >= 0).nonzero()[:, 0]
    # Candidates are tens of megabytes, which are copied only where some have to go.
    return boxes[filled], mask_logits if len(filled) == len(mask_logits) else mask_logits[filled], filled


def _visible(masks: Bool[Tensor, "M H W"], scores: Float[Tensor, " M"], labels: Int[Tensor, " M"]) -> Instances:
    """Leave out the masks that have no pixel at the image's size, and box the others."""
    boxes = mask_boxes(masks)
    visible = boxes[:, 2] >= 0
    if not visible.all():
        masks, boxes, scores, labels = masks[visible], boxes[visible], scores[visible], labels[visible]
    return Instances(masks=masks, boxes=boxes.float(), scores=scores, labels=labels)
