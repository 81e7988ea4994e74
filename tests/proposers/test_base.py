"""Prompts, the filter of the best mask, and masks that are collected batch by batch."""

import pytest
import torch

from no_time_to_train.proposers.base import MaskProposals, Prompts, best_above, collect_masks

ONE = torch.ones(1)


def _proposals(*values: float) -> MaskProposals:
    """Masks of 2x2 pixels, each filled with its predicted IoU."""
    predicted_iou = torch.tensor(values)
    return MaskProposals(predicted_iou[:, None, None].expand(-1, 2, 2), predicted_iou)


def test_a_part_of_labeled_points() -> None:
    points = torch.arange(12.0, dtype=torch.float64).view(3, 2, 2)
    prompts = Prompts(points, torch.tensor([[1, 0], [1, -10], [0, 1]]))
    part = prompts[1:].like(ONE)
    assert len(prompts) == 3
    assert len(part) == 2
    assert part.points is not None
    assert part.labels is not None
    assert part.points.dtype == torch.float32
    assert part.points.tolist() == [[[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert part.labels.tolist() == [[1, -10], [0, 1]]
    assert part.boxes is None


def test_a_part_of_boxes() -> None:
    prompts = Prompts(boxes=torch.arange(12.0, dtype=torch.float64).view(3, 4))
    part = prompts[:2].like(ONE)
    assert len(prompts) == 3
    assert len(part) == 2
    assert part.boxes is not None
    assert part.boxes.dtype == torch.float32
    assert part.boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert part.points is None
    assert part.labels is None


def test_points_are_on_the_object_by_default() -> None:
    labels = Prompts(torch.zeros(3, 2, 2)).labels
    assert labels is not None
    assert labels.tolist() == [[1, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("min_iou", "kept"),
    [
        (None, [[False, True, False], [True, False, False]]),
        # A half is exact in float32: 0.5 is not above it.
        (0.5, [[False, True, False], [False, False, False]]),
        (0.25, [[False, True, False], [True, False, False]]),
    ],
)
def test_the_best_mask_above_a_threshold(min_iou: float | None, kept: list[list[bool]]) -> None:
    predicted_iou = torch.tensor([[0.5, 0.75, 0.25], [0.5, 0.25, 0.125]])
    assert best_above(min_iou)(predicted_iou).tolist() == kept


def test_masks_are_collected_in_order() -> None:
    batches = [_proposals(0.5, 0.25), _proposals(), _proposals(0.75)]
    masks = collect_masks(batches, most=5, side=2, like=ONE)
    assert masks.predicted_iou.tolist() == [0.5, 0.25, 0.75]
    assert torch.equal(masks.mask_logits, _proposals(0.5, 0.25, 0.75).mask_logits)
    assert collect_masks([], most=5, side=2, like=ONE).mask_logits.shape == (0, 2, 2)
