"""Prompts where the image resembles the references.

A search from coarse to fine over a grid. Of each cell, the point that resembles some class most is
asked for a mask; points in masks that resemble a class as much as they do are explained, and the cells halve, until no
point is left, nothing new was found, or the prompts are used up.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.precision import full_precision
from no_time_to_train.matching.similarity import class_similarity, pool_masks
from no_time_to_train.proposers.base import Embedding, MaskProposals, PromptableModel, Prompts

PromptFn = Callable[[Float[Tensor, "N 2"]], MaskProposals]


class GuidedProposer:
    """Prompts where patch features resemble a class, and proposes the best mask of each prompt.

    Args:
        model: What is prompted.
        config: The grid, how many prompts, and what is kept of their masks.
    """

    uses_memory = True

    def __init__(self, model: PromptableModel, config: Sam2InferConfig) -> None:
        self._model, self._config = model, config

    @property
    def settings(self) -> str:
        """All that decides the proposals but image, model and memory."""
        config = self._config
        return f"prior {config.points_per_side} {config.iou_thr} {config.max_prompts} {config.prior_threshold}"

    def __call__(
        self, embedding: Embedding, patches: Float[Tensor, "h w D"], memory: MemoryBank | None
    ) -> MaskProposals:
        """Propose masks for one image."""
        assert memory is not None
        config, model = self._config, self._model
        image = model.prepare(embedding)

        def ask(points: Float[Tensor, "N 2"]) -> MaskProposals:
            prompts = Prompts(points=points[:, None])
            return model.best_masks(image, prompts, min_iou=config.iou_thr, batch_size=config.testing_point_bs)

        search = PriorSearch(config.points_per_side, config.max_prompts, config.prior_threshold)
        return search(patches, memory, model.image_size, ask)


@dataclass(frozen=True)
class PriorSearch:
    """A search for masks where patch features resemble a class.

    Attributes:
        points_per_side: Of the finest grid.
        max_prompts: Most prompts an image.
        threshold: Least resemblance of a prompt's point, between the median of the image (0) and its best (1).
        slack: By how much less than the point a mask may resemble a class and still explain the point, in cosine.
    """

    points_per_side: int
    max_prompts: int
    threshold: float
    slack: float = 0.05

    @torch.inference_mode()
    @full_precision()
    def __call__(
        self, patches: Float[Tensor, "h w D"], memory: MemoryBank, image_size: int, ask: PromptFn
    ) -> MaskProposals:
        """Search one image.

        Args:
            patches: The image's patch features.
            memory: The references.
            image_size: Side of the model's square input, in pixels, in which prompts are given.
            ask: Gives the masks that prompts at these points (x, y) lead to; fewer than points, if some are too poor.

        Returns:
            All masks that were found; there may be none, or several of one object.
        """
        side = self.points_per_side
        resemblance = self._resemblance(patches, memory)
        least = _between(resemblance, self.threshold)
        open_points = resemblance >= least
        found: list[MaskProposals] = []
        left, cell = self.max_prompts, _coarsest(side)
        while cell >= 1 and left > 0:
            chosen = _best_of_cells(resemblance.masked_fill(~open_points, -torch.inf), cell)[:left]
            cell //= 2
            if not len(chosen):
                continue
            left -= len(chosen)
            open_points.view(-1)[chosen] = False
            centres = (torch.stack([chosen % side, chosen // side], dim=1) + 0.5) * (image_size / side)
            masks = ask(centres.float())
            found.append(masks)
            open_points &= ~self._explained(masks, patches, memory, resemblance)
        if not found:
            return ask(torch.empty(0, 2, device=patches.device))
        return MaskProposals(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _resemblance(self, patches: Float[Tensor, "h w D"], memory: MemoryBank) -> Float[Tensor, "side side"]:
        """Return the highest cosine with a class at each point of the grid."""
        height, width, _ = patches.shape
        cosines = class_similarity(F.normalize(patches.flatten(0, 1), dim=1), memory).amax(dim=1)
        size = (self.points_per_side, self.points_per_side)
        return F.interpolate(cosines.view(1, 1, height, width), size=size, mode="bilinear", antialias=True)[0, 0]

    def _explained(
        self,
        masks: MaskProposals,
        patches: Float[Tensor, "h w D"],
        memory: MemoryBank,
        resemblance: Float[Tensor, "side side"],
    ) -> Bool[Tensor, "side side"]:
        """Tell which points lie in a mask that resembles a class about as much as they do."""
        filled = masks.mask_logits[(masks.mask_logits > 0).flatten(1).any(dim=1)]
        if not len(filled):
            return torch.zeros_like(resemblance, dtype=torch.bool)
        pooled = F.normalize(pool_masks(patches, filled), dim=1)
        scores: Tensor = class_similarity(pooled, memory).amax(dim=1)
        inside = F.interpolate(filled[:, None], size=resemblance.shape, mode="nearest-exact")[:, 0] > 0
        return (inside & (scores[:, None, None] >= resemblance - self.slack)).any(dim=0)


def _between(values: Tensor, share: float) -> float:
    """Return the value at this share of the way from the median to the highest."""
    middle, highest = values.median().item(), values.max().item()
    return middle + share * (highest - middle)


def _coarsest(side: int) -> int:
    """Return the largest power of two that splits the grid into at least four cells each way."""
    cell = 1
    while 4 * 2 * cell <= side:
        cell *= 2
    return cell


def _best_of_cells(values: Float[Tensor, "side side"], cell: int) -> Int[Tensor, " N"]:
    """Return where each cell's highest value is, highest first, of the cells in which one is finite."""
    best, where = F.max_pool2d(values[None, None], cell, ceil_mode=True, return_indices=True)
    order = best.flatten().argsort(descending=True, stable=True)
    order = order[best.flatten()[order] > -torch.inf]
    return where.flatten()[order]
