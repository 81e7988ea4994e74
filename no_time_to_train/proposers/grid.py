"""Prompts on a regular grid over the image: the best mask of each."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.array_ops import Array
from no_time_to_train.matching.precision import without_gradients
from no_time_to_train.proposers.base import Embedding, MaskProposals, PromptableModel, Prompts

PointGrid = Callable[[int, int], Float[np.ndarray, "N 2"]]


def point_grid(points_per_side: int, image_size: int) -> Float[np.ndarray, "N 2"]:
    """Place points at the centers of a square grid's cells.

    Args:
        points_per_side: Cells along each side; 32 gives 1024 points.
        image_size: Side of the model's square input, in pixels.

    Returns:
        x and y in pixels of the model's input, row by row, float32.

    Raises:
        ConfigError: `points_per_side` is less than 1.
    """
    if points_per_side < 1:
        raise ConfigError(f"points_per_side is {points_per_side}, expected at least 1", remedy="32 is usual")
    centers = (np.arange(points_per_side, dtype=np.float32) + 0.5) * (image_size / points_per_side)
    y, x = np.meshgrid(centers, centers, indexing="ij")
    return np.stack([x.flatten(), y.flatten()], axis=-1)


class GridProposer:
    """Puts a prompt on every point of a grid, and proposes the best mask of each.

    Args:
        model: What is prompted.
        config: The grid, and what is kept of its masks.
        points: Places the points, by their number along each side and the side of the model's input.
    """

    uses_memory = False

    def __init__(self, model: PromptableModel, config: Sam2InferConfig, points: PointGrid = point_grid) -> None:
        self._model, self._config, self._points = model, config, points

    @property
    def settings(self) -> str:
        """All that decides the proposals but image and model."""
        return f"grid {self._config.points_per_side} {self._config.iou_thr}"

    @without_gradients()
    def __call__(
        self, embedding: Embedding, patches: Float[Array, "h w D"], memory: MemoryBank | None
    ) -> MaskProposals:
        """Propose masks for one image; features and memory do not count."""
        config, model = self._config, self._model
        points = self._points(config.points_per_side, model.image_size)[:, None]
        prompts = Prompts(points).like(next(iter(embedding.values())))
        image = model.prepare(embedding)
        return model.best_masks(image, prompts, min_iou=config.iou_thr, batch_size=config.testing_point_bs)
