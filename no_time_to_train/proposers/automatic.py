"""Automatic masks: a grid of points is decoded, and masks that are unsure, unstable or doubled are dropped.

Everything is done on whole tensors of logits at the decoder's resolution. Crops of the image in several layers, which
Meta's generator offers, are left out: the original decodes the whole image only.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from no_time_to_train.configs.pipeline import AmgConfig
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.array_ops import Array, array_namespace, as_float, as_like, device, to_numpy
from no_time_to_train.matching.boxes import batched_nms, mask_boxes
from no_time_to_train.matching.precision import without_gradients
from no_time_to_train.proposers.base import Embedding, MaskProposals, PromptableModel, Prompts
from no_time_to_train.proposers.grid import point_grid

_SURE = 10.0  # the logit of pixels that are filled or wiped, as in Meta's post-processing


class AutomaticMaskGenerator:
    """Masks of everything in an image, without doubles.

    Two differences from Meta's generator: stability, boxes and regions are taken at the decoder's resolution and not
    at the image's, and a mask without any positive pixel is always dropped.

    Args:
        model: What is prompted.
        config: The grid and the filters.

    Source: facebookresearch/sam2, `sam2/automatic_mask_generator.py` (defaults and order of the filters).
    """

    uses_memory = False

    def __init__(self, model: PromptableModel, config: AmgConfig) -> None:
        self._model, self.config = model, config

    @property
    def settings(self) -> str:
        """All that decides the proposals but image and model."""
        return f"automatic {self.config}"

    @without_gradients()
    def __call__(
        self,
        embedding: Embedding,
        patches: Float[Array, "h w D"] | None = None,
        memory: MemoryBank | None = None,
    ) -> MaskProposals:
        """Find the masks of one image; features and memory do not count.

        Args:
            embedding: One image. Of 3 x points_per_side^2 masks those that pass the filters are held at once, 262 kB
                each at 256 x 256.
            patches: Not used.
            memory: Not used.

        Returns:
            The masks in order of their predicted IoU, highest first; there may be none.

        Raises:
            ConfigError: The embedding is of several images.
        """
        config = self.config
        points = point_grid(config.points_per_side, self._model.image_size)[:, None]
        batches = self._model.mask_batches(
            self._model.prepare(embedding),
            Prompts(points).like(next(iter(embedding.values()))),
            lambda predicted_iou: predicted_iou > config.pred_iou_thresh,
            batch_size=config.points_per_batch,
        )
        kept = [_sure_masks(*batch, config) for batch in batches]
        xp = array_namespace(kept[0].mask_logits)
        masks = MaskProposals(*(xp.concat(parts) for parts in zip(*kept, strict=True)))
        return suppress_duplicates(masks, config.box_nms_thresh)


def suppress_duplicates(masks: MaskProposals, box_nms_thresh: float) -> MaskProposals:
    """Of masks whose boxes have an IoU above the threshold keep the one of highest predicted IoU (greedy NMS).

    Args:
        masks: Each with some foreground.
        box_nms_thresh: Box IoU from which masks are doubles.

    Returns:
        The masks that are kept, highest predicted IoU first.
    """
    boxes = as_float(mask_boxes(masks.mask_logits))
    # The far edges of the last pixels.
    boxes[:, 2:] += 1
    xp = array_namespace(boxes)
    one_class = xp.zeros(len(boxes), dtype=xp.int64, device=device(boxes))
    rows = batched_nms(boxes, masks.predicted_iou, one_class, box_nms_thresh)
    return MaskProposals(masks.mask_logits[rows], masks.predicted_iou[rows])


def stability_score(mask_logits: Float[Array, "N Hm Wm"], offset: float = 1.0) -> Float[Array, " N"]:
    """Rate how little masks depend on where their logits are cut.

    Args:
        mask_logits: Positive inside the mask.
        offset: Distance of the two cuts from 0.

    Returns:
        IoU in [0, 1] of the masks above `offset` and above minus `offset`; 0 where both are empty.
    """
    xp = array_namespace(mask_logits)
    inner, outer = (as_float(xp.sum(mask_logits > cut, axis=(1, 2))) for cut in (offset, -offset))
    return inner / outer.clip(min=1)


def remove_small_regions(mask_logits: Float[Array, "N Hm Wm"], max_area: int) -> Float[Array, "N Hm Wm"]:
    """Fill holes and wipe islands of at most `max_area` pixels, both told from the masks as they come.

    Pixels that touch at a corner belong together, in holes as in islands. Filled pixels get logit 10, wiped ones -10.

    Args:
        mask_logits: Positive inside the mask.
        max_area: In mask pixels.
    """
    inside = mask_logits > 0
    hole = ~inside & (_region_areas(~inside) <= max_area)
    island = inside & (_region_areas(inside) <= max_area)
    xp = array_namespace(mask_logits)
    return xp.where(island, -_SURE, xp.where(hole, _SURE, mask_logits))


def _sure_masks(
    mask_logits: Float[Array, "N Hm Wm"], predicted_iou: Float[Array, " N"], config: AmgConfig
) -> MaskProposals:
    """Apply the filters that look at one drawn mask at a time."""
    if config.min_mask_region_area > 0:
        mask_logits = remove_small_regions(mask_logits, config.min_mask_region_area)
    stable = stability_score(mask_logits, config.stability_score_offset) >= config.stability_score_thresh
    xp = array_namespace(mask_logits)
    rows = xp.nonzero(stable & xp.any(mask_logits > 0, axis=(1, 2)))[0]
    return MaskProposals(mask_logits[rows], predicted_iou[rows])


def _region_areas(masks: Bool[Array, "N Hm Wm"]) -> Int[Array, "N Hm Wm"]:
    """Give every true pixel the number of pixels in its 8-connected region, and every false one 0."""
    import cv2  # of the extra `draw`, and slow to import

    areas = np.empty(masks.shape, dtype=np.int64)
    for mask, area in zip(to_numpy(masks), areas, strict=True):
        _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        area[:] = np.where(mask, stats[regions, cv2.CC_STAT_AREA], 0)
    return as_like(areas, masks)
