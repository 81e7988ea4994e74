"""Prompts on a regular grid over the image: the best mask of each."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching import MemoryBank
from no_time_to_train.proposers.base import Embedding, MaskProposals, PromptableModel, Prompts

PointGrid = Callable[[int, int], Float[Tensor, "N 2"]]


def point_grid(points_per_side: int, image_size: int) -> Float[Tensor, "N 2"]:
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
    centers = (torch.arange(points_per_side, dtype=torch.float32) + 0.5) * (image_size / points_per_side)
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


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

    @torch.inference_mode()
    def __call__(
        self, embedding: Embedding, patches: Float[Tensor, "h w D"], memory: MemoryBank | None
    ) -> MaskProposals:
        """Propose masks for one image; features and memory do not count."""
        config, model = self._config, self._model
        prompts = Prompts(points=self._points(config.points_per_side, model.image_size)[:, None])
        image = model.prepare(embedding)
        return model.best_masks(image, prompts, min_iou=config.iou_thr, batch_size=config.testing_point_bs)
