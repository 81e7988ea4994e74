"""How well SAM2 segments the synthetic objects from one click or from a box."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from no_time_to_train.data.synthetic.dataset import Scene, ShapeClass, render_scene
from no_time_to_train.proposers.base import scale_boxes
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

_PART = 5  # of a seed; 1 to 4 are the dataset's and the training's


@dataclass
class PromptScores:
    """IoU of each object's masks with the true one, by the way it was asked for.

    Attributes:
        best_of_3: From one click, the best of three masks.
        top_scored: From one click, the mask of highest predicted IoU.
        box: From the exact box, the single mask.
    """

    best_of_3: list[float] = field(default_factory=list)
    top_scored: list[float] = field(default_factory=list)
    box: list[float] = field(default_factory=list)


def score_prompts(
    sam2: Sam2Predictor, classes: Sequence[ShapeClass], *, seed: int, num_images: int, size: int = 256
) -> PromptScores:
    """Prompt every object of fresh scenes once by its innermost pixel and once by its box.

    Args:
        sam2: The model.
        classes: Of the scenes' objects.
        seed: Of the scenes.
        num_images: Scenes.
        size: Side of the scenes in pixels, at which masks are compared.
    """
    scores = PromptScores()
    for index in track(range(num_images), "prompts", console=Console(stderr=True), transient=True):
        scene = render_scene(np.random.default_rng([seed, _PART, index]), classes, size=size)
        _score_scene(sam2, scene, scores)
    return scores


def _score_scene(sam2: Sam2Predictor, scene: Scene, scores: PromptScores) -> None:
    truth = torch.from_numpy(np.stack([instance.mask for instance in scene.instances]))
    size = (truth.shape[1], truth.shape[2])
    embedding = sam2.embed(sam2.preprocess(torch.from_numpy(scene.image).permute(2, 0, 1)))
    clicks = torch.stack([innermost_pixel(mask) for mask in truth])[:, None]
    labels = torch.ones(clicks.shape[:2], dtype=torch.int64)
    found = sam2.decode_points(embedding, sam2.scale_points(clicks, size), labels)
    ious = _ious(found.mask_logits, truth)
    scores.best_of_3 += ious.amax(dim=1).tolist()
    scores.top_scored += ious.gather(1, found.predicted_iou.argmax(dim=1, keepdim=True))[:, 0].tolist()
    boxes = scale_boxes(sam2, torch.stack([_box(mask) for mask in truth]), size)
    scores.box += _ious(sam2.decode_boxes(embedding, boxes, multimask=False).mask_logits, truth)[:, 0].tolist()


def innermost_pixel(mask: Bool[Tensor, "H W"]) -> Float[Tensor, "2"]:
    """Return x and y of the pixel that is farthest from the mask's border, as interactive segmentation clicks."""
    import cv2

    padded = np.pad(mask.numpy().astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return torch.tensor([float(column), float(row)])


def _box(mask: Bool[Tensor, "H W"]) -> Float[Tensor, "4"]:
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    return torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float()


def _ious(logits: Float[Tensor, "N K Hm Wm"], truth: Bool[Tensor, "N H W"]) -> Float[Tensor, "N K"]:
    masks = functional.interpolate(logits, truth.shape[1:], mode="bilinear", antialias=True) > 0
    target = truth[:, None]
    return (masks & target).sum(dim=(2, 3)) / (masks | target).sum(dim=(2, 3)).clamp(min=1)
