"""A grid of prompts, and the best mask of each."""

import numpy as np
import pytest
import torch
from torch import Tensor

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.proposers.base import MaskFilter, MaskProposals, Prompts
from no_time_to_train.proposers.grid import GridProposer, point_grid
from tests.proposers.toy import MASK, SIDE, ToyPromptable

NO_PATCHES = torch.empty(0, 0, 1)


def test_points_are_the_centers_of_cells() -> None:
    # x changes first.
    assert point_grid(2, 128).tolist() == [[32, 32], [96, 32], [32, 96], [96, 96]]
    assert point_grid(1, 9).tolist() == [[4.5, 4.5]]
    assert point_grid(32, 1024).shape == (1024, 2)
    assert point_grid(32, 1024)[1].tolist() == [48, 16]
    with pytest.raises(ConfigError, match="points_per_side is 0, expected at least 1"):
        point_grid(0, 128)


class Recorded(ToyPromptable):
    """Keeps how many prompts it is to decode at a time."""

    batch_size = 0

    def best_masks(
        self, image: Tensor, prompts: Prompts, *, min_iou: float | None = None, batch_size: int = 128
    ) -> MaskProposals:
        self.batch_size = batch_size
        return super().best_masks(image, prompts, min_iou=min_iou, batch_size=batch_size)


def _image(model: ToyPromptable) -> dict[str, Tensor]:
    """Black, but for the upper right quarter, which is white."""
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    image[:, : SIDE // 2, SIDE // 2 :] = 255
    return dict(model.embed(model.preprocess(image)))


def test_the_best_mask_of_each_point() -> None:
    model = Recorded()
    proposer = GridProposer(model, Sam2InferConfig(points_per_side=2, testing_point_bs=3, iou_thr=0.8))
    masks = proposer(_image(model), NO_PATCHES, None)
    white = torch.zeros(MASK, MASK, dtype=torch.bool)
    white[: MASK // 2, MASK // 2 :] = True
    assert torch.equal(masks.mask_logits > 0, torch.stack([~white, white, ~white, ~white]))
    torch.testing.assert_close(masks.predicted_iou, torch.full((4,), 0.9), atol=0, rtol=0)
    assert model.batch_size == 3


def test_poor_masks_and_other_points() -> None:
    model = ToyPromptable()
    poor = GridProposer(model, Sam2InferConfig(points_per_side=2, iou_thr=0.95))
    assert poor(_image(model), NO_PATCHES, None).mask_logits.shape == (0, MASK, MASK)

    sides: list[tuple[int, int]] = []

    def corner(points_per_side: int, image_size: int) -> np.ndarray:
        sides.append((points_per_side, image_size))
        return np.array([[image_size - 1.0, 0.0]], dtype=np.float32)

    one = GridProposer(model, Sam2InferConfig(points_per_side=3, iou_thr=0.5), corner)
    masks = one(_image(model), NO_PATCHES, None)
    assert sides == [(3, SIDE)]
    assert int((masks.mask_logits > 0).sum()) == (MASK // 2) ** 2


def test_settings_tell_proposals_apart() -> None:
    model = ToyPromptable()
    configs = [Sam2InferConfig(), Sam2InferConfig(points_per_side=5), Sam2InferConfig(iou_thr=0.5)]
    assert len({GridProposer(model, config).settings for config in configs}) == 3
    assert not GridProposer(model, configs[0]).uses_memory


def test_only_wanted_masks_of_another_model() -> None:
    """The stand-in itself keeps to the protocol: masks in the order of prompts, a few at a time."""
    model = ToyPromptable()
    every: MaskFilter = torch.isfinite
    prompts = Prompts(points=torch.from_numpy(point_grid(2, SIDE)[:, None]))
    batches = list(model.mask_batches(model.prepare(_image(model)), prompts, every, batch_size=3))
    assert [len(batch.predicted_iou) for batch in batches] == [9, 3]
