"""SAM2's automatic masks: a grid of points is decoded, and masks that are unsure, unstable or doubled are dropped.

Everything is done on whole tensors of logits at the decoder's resolution. Crops of the image in several layers, which
Meta's generator offers, are left out: the original decodes the whole image only.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import nms

from no_time_to_train.configs.limits import MOST_IN_BATCH, TOGETHER, check_number
from no_time_to_train.configs.pipeline import MOST_POINTS_PER_SIDE
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching.boxes import mask_boxes
from no_time_to_train.proposers.sam2.predictor import ImageEmbedding, Prompts, Sam2Segmenter, SelectedMasks, point_grid

_MOST_PIXELS = 2**31
_SURE = 10.0  # the logit of pixels that are filled or wiped, as in Meta's post-processing


@dataclass(frozen=True)
class AmgConfig:
    """Settings of the automatic mask generator.

    Attributes:
        points_per_side: The grid has this many points along each side of the image.
        points_per_batch: Points that are decoded at a time.
        pred_iou_thresh: Masks need a higher predicted IoU, in [0, 1].
        stability_score_thresh: Masks need at least this stability score, in [0, 1].
        stability_score_offset: The score is the IoU between the mask cut this far above and this far below logit 0.
        box_nms_thresh: Of two masks whose boxes have a higher IoU, the one of higher predicted IoU stays.
        min_mask_region_area: Holes and islands of at most this many mask pixels are filled and wiped; 0 leaves all.

    Raises:
        ConfigError: A setting is out of its range.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for name, lowest, most, why in (
            ("points_per_side", 1, MOST_POINTS_PER_SIDE, "a grid of n points a side is n times n prompts an image"),
            ("points_per_batch", 1, MOST_IN_BATCH, TOGETHER),
            ("min_mask_region_area", 0, _MOST_PIXELS, "no mask has as many pixels"),
        ):
            check_number(name, getattr(self, name), lowest, most, why)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, expected 0 to 1", remedy=f"correct {name}")
        if self.stability_score_offset < 0:
            raise ConfigError(
                f"stability_score_offset is {self.stability_score_offset}, expected 0 or more", remedy="1.0 is usual"
            )


class AutomaticMaskGenerator(nn.Module):
    """Masks of everything in an image.

    Two differences from Meta's generator: stability, boxes and regions are taken at the decoder's resolution and not
    at the image's, and a mask without any positive pixel is always dropped.

    Args:
        sam2: The model.
        points_per_side: As in `AmgConfig`, like all that follow.
        points_per_batch: Points that are decoded at a time.
        pred_iou_thresh: Least predicted IoU.
        stability_score_thresh: Least stability score.
        stability_score_offset: Offset of the cuts of the stability score.
        box_nms_thresh: Box IoU from which masks are doubles.
        min_mask_region_area: Largest hole or island that is removed.

    Raises:
        ConfigError: A setting is out of its range.

    Source: facebookresearch/sam2, `sam2/automatic_mask_generator.py` (defaults and order of the filters).
    """

    def __init__(
        self,
        sam2: Sam2Segmenter,
        *,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        min_mask_region_area: int = 0,
    ) -> None:
        super().__init__()
        self.sam2 = sam2
        self.config = AmgConfig(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            min_mask_region_area=min_mask_region_area,
        )

    @classmethod
    def from_config(cls, sam2: Sam2Segmenter, config: AmgConfig) -> "AutomaticMaskGenerator":
        """Make a generator from settings that were read from a YAML file."""
        return cls(sam2, **asdict(config))

    def forward(self, embedding: ImageEmbedding) -> SelectedMasks:
        """Find the masks of one image.

        Args:
            embedding: One image. Of 3 x points_per_side^2 masks those that pass the filters are held at once, 262 kB
                each at 256 x 256.

        Returns:
            The masks in order of their predicted IoU, highest first; there may be none.

        Raises:
            ConfigError: The embedding is of several images.
        """
        points = point_grid(self.config.points_per_side, self.sam2.image_size)[:, None]
        batches = self.sam2.selected_batches(
            embedding,
            Prompts(points),
            lambda predicted_iou: predicted_iou > self.config.pred_iou_thresh,
            batch_size=self.config.points_per_batch,
        )
        kept = [_sure_masks(*batch, self.config) for batch in batches]
        masks = SelectedMasks(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
        return suppress_duplicates(masks, self.config.box_nms_thresh)


def suppress_duplicates(masks: SelectedMasks, box_nms_thresh: float) -> SelectedMasks:
    """Of masks whose boxes have an IoU above the threshold keep the one of highest predicted IoU (greedy NMS).

    Args:
        masks: Each with some foreground.
        box_nms_thresh: Box IoU from which masks are doubles.

    Returns:
        The masks that are kept, highest predicted IoU first.
    """
    boxes = mask_boxes(masks.mask_logits).float()
    # The far edges of the last pixels.
    boxes[:, 2:] += 1
    rows = nms(boxes, masks.predicted_iou, box_nms_thresh)
    return SelectedMasks(masks.mask_logits[rows], masks.predicted_iou[rows])


def stability_score(mask_logits: Float[Tensor, "N Hm Wm"], offset: float = 1.0) -> Float[Tensor, " N"]:
    """Rate how little masks depend on where their logits are cut.

    Args:
        mask_logits: Positive inside the mask.
        offset: Distance of the two cuts from 0.

    Returns:
        IoU in [0, 1] of the masks above `offset` and above minus `offset`; 0 where both are empty.
    """
    inner = (mask_logits > offset).sum(dim=(1, 2))
    outer = (mask_logits > -offset).sum(dim=(1, 2))
    return inner / outer.clamp(min=1)


def remove_small_regions(mask_logits: Float[Tensor, "N Hm Wm"], max_area: int) -> Float[Tensor, "N Hm Wm"]:
    """Fill holes and wipe islands of at most `max_area` pixels, both told from the masks as they come.

    Pixels that touch at a corner belong together, in holes as in islands. Filled pixels get logit 10, wiped ones -10.

    Args:
        mask_logits: Positive inside the mask.
        max_area: In mask pixels.
    """
    inside = mask_logits > 0
    hole = ~inside & (_region_areas(~inside) <= max_area)
    island = inside & (_region_areas(inside) <= max_area)
    return mask_logits.masked_fill(hole, _SURE).masked_fill(island, -_SURE)


def _sure_masks(
    mask_logits: Float[Tensor, "N Hm Wm"], predicted_iou: Float[Tensor, " N"], config: AmgConfig
) -> SelectedMasks:
    """Apply the filters that look at one drawn mask at a time."""
    if config.min_mask_region_area > 0:
        mask_logits = remove_small_regions(mask_logits, config.min_mask_region_area)
    stable = stability_score(mask_logits, config.stability_score_offset) >= config.stability_score_thresh
    rows = (stable & (mask_logits > 0).flatten(1).any(dim=1)).nonzero()[:, 0]
    return SelectedMasks(mask_logits[rows], predicted_iou[rows])


def _region_areas(masks: Bool[Tensor, "N Hm Wm"]) -> Int[Tensor, "N Hm Wm"]:
    """Give every true pixel the number of pixels in its 8-connected region, and every false one 0."""
    import cv2  # of the extra `draw`, and slow to import

    areas = np.empty(masks.shape, dtype=np.int64)
    for mask, area in zip(masks.cpu().numpy(), areas, strict=True):
        _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        area[:] = np.where(mask, stats[regions, cv2.CC_STAT_AREA], 0)
    return torch.from_numpy(areas).to(masks.device)
