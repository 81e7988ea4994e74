"""The prompts that backends are compared on: points and boxes at fixed places of any image."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# x and y in sides of the image: one point each, then an object and a background point, then two points of an object.
_POINTS = (((0.5, 0.5), (0, 0)), ((0.25, 0.25), (0, 0)), ((0.5, 0.5), (0.05, 0.05)), ((0.33, 0.5), (0.67, 0.5)))
# 1 on the object, 0 on the background, -10 no point.
_LABELS = ((1, -10), (1, -10), (1, 0), (1, 1))
# xyxy likewise: the middle, the whole image, its left half, a quarter.
_BOXES = ((0.25, 0.25, 0.75, 0.75), (0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0.5, 1, 1))


@dataclass(frozen=True)
class ParityPrompts:
    """Prompts on one image; every image gets the same ones.

    Attributes:
        points: x and y in pixels of the model's input, float32.
        labels: 1 on the object, 0 on the background, -10 padding.
        boxes: xyxy in pixels of the model's input, float32.
    """

    points: Float[np.ndarray, "N P 2"]
    labels: Int[np.ndarray, "N P"]
    boxes: Float[np.ndarray, "M 4"]


def make_prompts(side: int) -> ParityPrompts:
    """Return the prompts for images of a side in pixels: four of points, four of boxes."""
    points, boxes = (np.asarray(places, np.float32) * (side - 1) for places in (_POINTS, _BOXES))
    return ParityPrompts(points, np.asarray(_LABELS, np.int64), boxes)
