"""Prompts where the image resembles the references.

A search from coarse to fine over a grid. Of each cell, the point that resembles some class most is
asked for a mask; points in masks that resemble a class as much as they do are explained, and the cells halve, until no
point is left, nothing new was found, or the prompts are used up.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.array_ops import Array, array_namespace, as_like, normalize, to_numpy
from no_time_to_train.matching.interpolation import nearest_pixels, resize_map
from no_time_to_train.matching.precision import inference
from no_time_to_train.matching.similarity import class_similarity, pool_masks
from no_time_to_train.proposers.base import Embedding, MaskProposals, PromptableModel, Prompts

PromptFn = Callable[[Float[Array, "N 2"]], MaskProposals]


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
        self, embedding: Embedding, patches: Float[Array, "h w D"], memory: MemoryBank | None
    ) -> MaskProposals:
        """Propose masks for one image."""
        assert memory is not None
        config, model = self._config, self._model
        image = model.prepare(embedding)

        def ask(points: Float[Array, "N 2"]) -> MaskProposals:
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

    @inference()
    def __call__(
        self, patches: Float[Array, "h w D"], memory: MemoryBank, image_size: int, ask: PromptFn
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
            chosen = _best_of_cells(np.where(open_points, resemblance, -np.inf), cell)[:left]
            cell //= 2
            if not len(chosen):
                continue
            left -= len(chosen)
            open_points.reshape(-1)[chosen] = False
            centers = (np.stack([chosen % side, chosen // side], axis=1) + 0.5) * (image_size / side)
            masks = ask(as_like(centers.astype(np.float32), patches))
            found.append(masks)
            open_points &= ~self._explained(masks, patches, memory, resemblance)
        if not found:
            return ask(as_like(np.empty((0, 2), dtype=np.float32), patches))
        xp = array_namespace(patches)
        return MaskProposals(*(xp.concat(parts) for parts in zip(*found, strict=True)))

    def _resemblance(self, patches: Float[Array, "h w D"], memory: MemoryBank) -> Float[np.ndarray, "side side"]:
        """Return the highest cosine with a class at each point of the grid."""
        height, width, dim = patches.shape
        xp = array_namespace(patches)
        cosines = xp.max(class_similarity(normalize(xp.reshape(patches, (height * width, dim))), memory), axis=1)
        size = (self.points_per_side, self.points_per_side)
        # Searching takes many small steps, for which the CPU is the place.
        found: np.ndarray = to_numpy(resize_map(xp.reshape(cosines, (height, width)), size))
        return found

    def _explained(
        self,
        masks: MaskProposals,
        patches: Float[Array, "h w D"],
        memory: MemoryBank,
        resemblance: Float[np.ndarray, "side side"],
    ) -> Bool[np.ndarray, "side side"]:
        """Tell which points lie in a mask that resembles a class about as much as they do."""
        xp = array_namespace(patches)
        filled = masks.mask_logits[xp.any(masks.mask_logits > 0, axis=(1, 2))]
        if not len(filled):
            return np.zeros(resemblance.shape, dtype=bool)
        pooled = normalize(pool_masks(patches, filled))
        scores = to_numpy(xp.max(class_similarity(pooled, memory), axis=1))
        side = self.points_per_side
        inside: np.ndarray = to_numpy(nearest_pixels(filled, (side, side), centered=True) > 0)
        explained: Bool[np.ndarray, "side side"] = np.any(
            inside & (scores[:, None, None] >= resemblance - self.slack), axis=0
        )
        return explained


def _between(values: Float[np.ndarray, "side side"], share: float) -> float:
    """Return the value at this share of the way from the median to the highest; of two medians from the lower."""
    in_order = np.sort(values, axis=None)
    middle, highest = float(in_order[(len(in_order) - 1) // 2]), float(in_order[-1])
    return middle + share * (highest - middle)


def _coarsest(side: int) -> int:
    """Return the largest power of two that splits the grid into at least four cells each way."""
    cell = 1
    while 4 * 2 * cell <= side:
        cell *= 2
    return cell


def _best_of_cells(values: Float[np.ndarray, "side side"], cell: int) -> Int[np.ndarray, " N"]:
    """Return where each cell's highest value is, highest first, of the cells in which one is finite."""
    side = len(values)
    beyond = -side % cell
    whole = np.pad(values, (0, beyond), constant_values=-np.inf)
    count = len(whole) // cell
    cells = whole.reshape(count, cell, count, cell).swapaxes(1, 2).reshape(count * count, cell * cell)
    first = cells.argmax(axis=1)
    best = cells[np.arange(len(cells)), first]
    y, x = (place * cell for place in divmod(np.arange(len(cells)), count))
    where = (y + first // cell) * side + x + first % cell
    order = np.argsort(-best, kind="stable")
    chosen: np.ndarray = where[order[best[order] > -np.inf]]
    return chosen
