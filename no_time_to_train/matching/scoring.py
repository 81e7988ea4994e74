"""From candidate masks to instances: pool, score, suppress, merge softly.

Source: the method of no-time-to-train, arXiv 2507.02798, section 3; on the inputs of
tests/matching/test_golden.py, outputs agree with its code at 214fc79.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from array_api_compat import to_device
from jaxtyping import Bool, Float, Int

from no_time_to_train.errors import MaskSizeError
from no_time_to_train.matching.array_ops import (
    Array,
    array_namespace,
    as_float,
    default_namespace,
    device,
    normalize,
)
from no_time_to_train.matching.boxes import batched_nms, mask_boxes
from no_time_to_train.matching.memory_bank import MemoryBank
from no_time_to_train.matching.precision import inference
from no_time_to_train.matching.similarity import class_similarity, negative_penalty, pool_masks
from no_time_to_train.matching.tiled_masks import TiledMasks

_NMS_KEEP_FACTOR = 8

# Takes patch features and the logits of masks; gives the mean of the features over each mask.
Pool: TypeAlias = Callable[[Float[Array, "h w D"], Float[Array, "N Hm Wm"]], Float[Array, "N D"]]


@dataclass(frozen=True)
class Instances:
    """What was found in one image, best first.

    Attributes:
        masks: At the image's size.
        boxes: Of the masks, in pixels: the first and the last column and row that the mask touches (x1, y1, x2, y2).
        scores: In [0, 1].
        labels: Indices into the memory bank's class names.
    """

    masks: Bool[Array, "M H W"]
    boxes: Float[Array, "M 4"]
    scores: Float[Array, " M"]
    labels: Int[Array, " M"]

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: Any) -> "Instances":
        """Return the same instances on another device."""
        return Instances(*(to_device(value, device) for value in (self.masks, self.boxes, self.scores, self.labels)))

    @classmethod
    def empty(cls, image_size: tuple[int, int], device: Any = "cpu", *, xp: Any = None) -> "Instances":
        """Return no instances, for an image of that height and width.

        Args:
            image_size: Height and width in pixels.
            device: Of the arrays.
            xp: Namespace of the arrays; torch's if it has been imported, and NumPy's otherwise, when None.
        """
        xp = default_namespace() if xp is None else xp
        return cls(
            masks=xp.zeros((0, *image_size), dtype=xp.bool, device=device),
            boxes=xp.zeros((0, 4), dtype=xp.float32, device=device),
            scores=xp.zeros(0, dtype=xp.float32, device=device),
            labels=xp.zeros(0, dtype=xp.int64, device=device),
        )


@inference()
def match_masks(
    patches: Float[Array, "h w D"],
    mask_logits: Float[Array, "N Hm Wm"],
    predicted_iou: Float[Array, " N"],
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
    xp = array_namespace(mask_logits)
    boxes, logits, filled = _with_foreground(mask_logits)
    pooled = normalize(pool(patches, logits))
    # Without any mask too, a bank of another encoder or with an empty class is refused here.
    cosines = class_similarity(pooled, memory)
    per_class = cosines.clip(min=0) * negative_penalty(pooled, cosines, memory, sigma=negative_sigma)
    scores, labels = xp.max(per_class, axis=1), xp.argmax(per_class, axis=1)
    ranked = batched_nms(as_float(boxes), as_float(predicted_iou[filled]), labels, nms_threshold)
    ranked = ranked[: _NMS_KEEP_FACTOR * max_instances]
    # Without a positive cosine the label is only the first class, whose objects these masks must not touch below.
    ranked = ranked[scores[ranked] > 0]
    if not len(ranked):
        return Instances.empty(image_size, device(mask_logits), xp=xp)
    tiled = TiledMasks(logits, image_size)
    shared = tiled.intersections(ranked)
    merged = scores[ranked] * overlap_decay(shared, pooled[ranked], labels[ranked])
    # What has no pixel at the image's size takes no place among the best.
    order = xp.argsort(xp.where(shared.diagonal() == 0, -1.0, merged), descending=True, stable=True)
    best = order[:max_instances]
    return _visible(tiled.resized(ranked[best]), merged[best], labels[ranked][best])


@inference()
def match_all_mask_class_pairs(
    patches: Float[Array, "h w D"],
    mask_logits: Float[Array, "N Hm Wm"],
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
    xp = array_namespace(mask_logits)
    _, logits, _ = _with_foreground(mask_logits)
    pooled = normalize(pool_masks(patches, logits))
    cosines = class_similarity(pooled, memory)
    per_class = (cosines + 1) / 2 * negative_penalty(pooled, cosines, memory, sigma=negative_sigma)
    scores, classes = xp.reshape(per_class, (-1,)), cosines.shape[1]
    best = xp.argsort(scores, descending=True, stable=True)[:max_instances]
    distinct, positions = xp.unique_inverse(best // classes)
    return _visible(TiledMasks(logits, image_size).resized(distinct)[positions], scores[best], best % classes)


match_mask_pairs = match_all_mask_class_pairs  # its name in the first release


def overlap_decay(
    shared: Float[Array, "K K"], pooled: Float[Array, "K D"], labels: Int[Array, " K"]
) -> Float[Array, " K"]:
    """Return by what each mask's score is multiplied for its overlap with the masks ranked before it.

    Args:
        shared: Pixels that each two masks share, in the order of their rank; their own on the diagonal.
        pooled: Their L2-normalised features.
        labels: Their classes; only masks of one class count against each other.
    """
    xp = array_namespace(shared)
    within = shared / shared.diagonal().clip(min=1)[:, None]
    alike = (pooled @ pooled.T).clip(min=0)
    counts = labels[:, None] == labels[None, :]
    overlap = xp.max(xp.tril(within * alike * counts, k=-1), axis=1)
    return xp.sqrt((1 - overlap).clip(min=0))


def _with_foreground(
    mask_logits: Float[Array, "N Hm Wm"],
) -> tuple[Int[Array, "M 4"], Float[Array, "M Hm Wm"], Int[Array, " M"]]:
    """Return the boxes, the logits and the indices of the masks that have foreground."""
    boxes = mask_boxes(mask_logits)
    filled = array_namespace(boxes).nonzero(boxes[:, 2] >= 0)[0]
    # Candidates are tens of megabytes, which are copied only where some have to go.
    return boxes[filled], mask_logits if len(filled) == len(mask_logits) else mask_logits[filled], filled


def _visible(masks: Bool[Array, "M H W"], scores: Float[Array, " M"], labels: Int[Array, " M"]) -> Instances:
    """Leave out the masks that have no pixel at the image's size, and box the others."""
    boxes = mask_boxes(masks)
    visible = boxes[:, 2] >= 0
    if not visible.all():
        masks, boxes, scores, labels = masks[visible], boxes[visible], scores[visible], labels[visible]
    return Instances(masks=masks, boxes=as_float(boxes), scores=scores, labels=labels)
