from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from no_time_to_train.errors import EmptyClassError, EncoderMismatchError, MaskSizeError
from no_time_to_train.matching import Instances, MemoryBank, match_masks, similarity
from no_time_to_train.matching.interpolation import interpolation_matrix
from no_time_to_train.matching.scoring import Pool, match_all_mask_class_pairs, overlap_decay
from no_time_to_train.matching.similarity import (
    class_similarity,
    negative_penalty,
    pool_masks,
    pool_upsampled,
)
from no_time_to_train.matching.tiled_masks import intersections

RED, GREEN, BLUE = torch.eye(3)


def bank_of(*prototypes: Tensor) -> MemoryBank:
    bank = MemoryBank([f"class {i}" for i in range(len(prototypes))], 3, "test")
    for index, prototype in enumerate(prototypes):
        bank.add(index, prototype[None, None], torch.ones(1, 1))
    return bank


def boxes_to_logits(*boxes: tuple[int, int, int, int], size: int = 16) -> Tensor:
    """Draw one mask per box (x1, y1, x2, y2), the far edges excluded."""
    logits = torch.full((len(boxes), size, size), -5.0)
    for logit, (x1, y1, x2, y2) in zip(logits, boxes, strict=True):
        logit[y1:y2, x1:x2] = 5.0
    return logits


def two_halves() -> Tensor:
    """Make features that are red on the left and green on the right."""
    patches = torch.zeros(4, 4, 3)
    patches[:, :2], patches[:, 2:] = RED, GREEN
    return patches


@pytest.mark.parametrize(("source", "target"), [(14, 64), (37, 256), (16, 16), (37, 12), (5, 7)])
def test_interpolation_matrix_is_torchs_interpolation(source: int, target: int) -> None:
    image = torch.randn(source, 9)
    resized = F.interpolate(image[None, None], size=(target, 9), mode="bilinear", antialias=True)[0, 0]
    torch.testing.assert_close(interpolation_matrix(source, target, image) @ image, resized)


@pytest.mark.parametrize("shape", [(48, 64), (8, 24)])
@pytest.mark.parametrize("pool", [pool_masks, pool_upsampled])
def test_pooling_equals_upsampling_first(shape: tuple[int, int], pool: Pool) -> None:
    patches, masks = torch.randn(9, 12, 5), torch.rand(7, *shape) > 0.6
    upsampled = F.interpolate(patches.permute(2, 0, 1)[None], size=shape, mode="bilinear", antialias=True)[0]
    expected = torch.stack([upsampled[:, mask].mean(dim=1) for mask in masks])
    torch.testing.assert_close(pool(patches, masks), expected, atol=1e-5, rtol=1e-5)


def test_each_mask_gets_the_class_it_resembles() -> None:
    logits = boxes_to_logits((1, 1, 6, 15), (10, 1, 15, 15))
    found = match_masks(two_halves(), logits, torch.tensor([0.9, 0.8]), bank_of(RED, GREEN), image_size=(32, 48))
    assert found.labels.tolist() == [0, 1]
    assert found.masks.shape == (2, 32, 48)
    # Touching columns 1 to 5 of 16, at 48 columns: 3 to 17.
    assert found.boxes[0].tolist() == [3, 2, 17, 29]
    assert found.scores.min() > 0.9


def test_no_mask_and_empty_masks_give_no_instances() -> None:
    bank = bank_of(RED, GREEN)
    for logits in (torch.empty(0, 16, 16), torch.full((3, 16, 16), -1.0)):
        found = match_masks(two_halves(), logits, torch.ones(len(logits)), bank, image_size=(20, 30))
        assert len(found) == 0
        assert found.masks.shape == (0, 20, 30)
        assert found.boxes.shape == (0, 4)


def test_nms_keeps_the_higher_predicted_iou_within_a_class_only() -> None:
    logits = boxes_to_logits((1, 1, 7, 15), (1, 1, 7, 14))
    bank = bank_of(RED, GREEN)
    found = match_masks(two_halves(), logits, torch.tensor([0.6, 0.9]), bank, image_size=(16, 16))
    assert len(found) == 1
    assert found.boxes[0].tolist() == [1, 1, 6, 13]
    kept = match_masks(two_halves(), logits, torch.tensor([0.6, 0.9]), bank, image_size=(16, 16), nms_threshold=0.99)
    assert len(kept) == 2


def test_a_mask_within_a_better_one_of_its_class_loses_its_score() -> None:
    shared = intersections(boxes_to_logits((0, 0, 8, 8), (0, 0, 4, 4), (4, 4, 12, 12)), (16, 16))
    pooled = F.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 0]]), dim=1)
    factors = overlap_decay(shared, pooled, torch.tensor([0, 0, 0]))
    expected = [1, (1 - 2**-0.5) ** 0.5, (1 - 16 / 64) ** 0.5]
    torch.testing.assert_close(factors, torch.tensor(expected))
    assert overlap_decay(shared, pooled, torch.tensor([0, 1, 2])).tolist() == [1, 1, 1]


def test_a_mask_that_resembles_no_class_is_left_out_and_lowers_no_score() -> None:
    patches = torch.zeros(4, 4, 3)
    patches[:, :2], patches[:, 2:] = torch.tensor([0.5, 0.9, 0.0]), torch.tensor([-1.5, 0.9, 0.0])
    # The second mask is ranked first and holds the other one, which it resembles; it does not resemble the class.
    logits, quality = boxes_to_logits((0, 0, 7, 16), (0, 0, 16, 16)), torch.tensor([0.8, 0.9])
    pooled = F.normalize(pool_masks(patches, logits), dim=1)
    assert pooled[1, 0] < 0 < pooled[0] @ pooled[1]
    found = match_masks(patches, logits, quality, bank_of(RED, BLUE), image_size=(16, 16))
    assert found.labels.tolist() == [0]
    torch.testing.assert_close(found.scores, pooled[:1, 0])
    assert len(match_masks(patches, logits[1:], quality[1:], bank_of(RED, BLUE), image_size=(16, 16))) == 0


def test_best_instances_only() -> None:
    logits = boxes_to_logits((0, 0, 3, 3), (0, 6, 3, 9), (0, 12, 3, 15), (7, 0, 9, 16))
    found = match_masks(two_halves(), logits, torch.full((4,), 0.9), bank_of(RED), image_size=(16, 16), max_instances=2)
    assert len(found) == 2
    assert found.scores[0] >= found.scores[1]


def test_negative_references_take_score_away() -> None:
    bank = bank_of(RED, GREEN)
    bank.add(0, (BLUE * 7)[None, None], torch.ones(1, 1), negative=True)
    bank.add(0, (-BLUE)[None, None], torch.ones(1, 1), negative=True)
    pooled = torch.tensor([[0.6, 0.0, 0.8], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    factors = negative_penalty(pooled, class_similarity(pooled, bank), bank, sigma=0.5)
    # The best of both negatives counts, against the positive cosine; what is no nearer to them keeps its score.
    torch.testing.assert_close(factors[0, 0], torch.exp(torch.tensor(-(0.8 - 0.6) / 0.5)))
    assert factors[1:, 0].tolist() == [1, 1]
    assert factors[:, 1].tolist() == [1, 1, 1]


def test_a_negative_reference_changes_the_class() -> None:
    patches = torch.ones(4, 4, 3) * torch.tensor([0.7, 0.6, 0.0])
    logits, bank = boxes_to_logits((2, 2, 9, 9)), bank_of(RED, GREEN)
    assert match_masks(patches, logits, torch.ones(1), bank, image_size=(16, 16)).labels.tolist() == [0]
    bank.add(0, patches, torch.ones(4, 4), negative=True)
    assert match_masks(patches, logits, torch.ones(1), bank, image_size=(16, 16)).labels.tolist() == [1]


def test_pairs_are_scored_between_zero_and_one() -> None:
    logits = boxes_to_logits((1, 1, 7, 15), (9, 1, 15, 15))
    found = match_all_mask_class_pairs(two_halves(), logits, bank_of(RED, GREEN), image_size=(16, 16), max_instances=3)
    assert found.labels[:2].sort().values.tolist() == [0, 1]
    # A bilinear seam of one patch is between the halves; a pure half scores (1 + 1) / 2, the other class (0 + 1) / 2.
    assert found.scores[:2].min() > 0.98
    assert 0.5 <= found.scores[2] < 0.7
    assert len(found) == 3
    assert len(match_all_mask_class_pairs(two_halves(), logits[:0], bank_of(RED), image_size=(9, 9))) == 0


def test_autocast_changes_nothing() -> None:
    patches, logits, quality = torch.rand(6, 6, 3), torch.randn(20, 16, 16), torch.rand(20)
    bank = bank_of(RED, GREEN)
    plain = match_masks(patches, logits, quality, bank, image_size=(30, 30))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = match_masks(patches, logits, quality, bank, image_size=(30, 30))
    assert len(plain)
    assert torch.equal(plain.scores, mixed.scores)
    assert torch.equal(plain.masks, mixed.masks)


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_inputs_are_refused() -> None:
    logits, quality = boxes_to_logits((0, 0, 8, 8)), torch.ones(1)
    with pytest.raises(EncoderMismatchError, match="4 wide, the memory bank's 3"):
        match_masks(torch.ones(4, 4, 4), logits, quality, bank_of(RED), image_size=(16, 16))
    with pytest.raises(MaskSizeError, match="one predicted IoU per mask"):
        match_masks(two_halves(), logits, torch.ones(2), bank_of(RED), image_size=(16, 16))
    with pytest.raises(EmptyClassError, match="anchor"):
        match_masks(two_halves(), logits, quality, MemoryBank(["anchor"], 3, ""), image_size=(16, 16))


def test_instances_move_between_devices() -> None:
    assert len(Instances.empty((4, 5)).to("cpu")) == 0


def test_pooling_is_exchangeable() -> None:
    """Whatever is given averages the features."""
    patches, logits, quality = two_halves(), torch.randn(3, 16, 16), torch.tensor([0.9, 0.8, 0.7])
    found = match_masks(
        patches,
        logits,
        quality,
        bank_of(RED, GREEN),
        image_size=(16, 16),
        pool=lambda _, masks: GREEN.expand(len(masks), -1),
    )
    assert found.labels.tolist() == [1] * len(found)
    assert len(found) > 0


def steps(count: int) -> Tensor:
    """Make features of one row that are the nearer to red the further to the right."""
    angles = torch.linspace(1.2, 0.1, count)
    return torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], dim=1)[None]


def test_suppression_leaves_eight_times_what_is_wanted() -> None:
    """The ninth by predicted IoU, which resembles the class most, is not among the eight that may be the best."""
    logits = boxes_to_logits(*((4 * index, 0, 4 * index + 4, 36) for index in range(9)), size=36)
    quality = torch.linspace(0.9, 0.1, 9)
    for wanted, best in ((1, 7), (2, 8)):
        found = match_masks(steps(9), logits, quality, bank_of(RED), image_size=(36, 36), max_instances=wanted)
        assert len(found) == wanted
        assert found.boxes[0].tolist() == [4 * best, 0, 4 * best + 3, 35]


def test_a_hundred_instances_unless_told_otherwise() -> None:
    logits = boxes_to_logits(*((4 * i, 4 * j, 4 * i + 2, 4 * j + 2) for i in range(11) for j in range(10)), size=44)
    patches, bank = RED.expand(4, 4, 3), bank_of(RED)
    assert len(match_masks(patches, logits, torch.rand(110), bank, image_size=(44, 44))) == 100
    assert len(match_all_mask_class_pairs(patches, logits, bank, image_size=(44, 44))) == 100


@pytest.mark.parametrize(("width", "kept"), [(26, 2), (27, 1)])
def test_half_an_overlap_is_too_much(width: int, kept: int) -> None:
    """Boxes span 51 and `width` columns, of which the far ones have no area: IoUs of 25 / 50 and 26 / 50."""
    logits = boxes_to_logits((0, 0, 51, 51), (0, 0, width, 51), size=64)
    found = match_masks(two_halves(), logits, torch.tensor([0.8, 0.9]), bank_of(RED), image_size=(64, 64))
    assert len(found) == kept


def test_a_negative_reference_weighs_by_its_sigma() -> None:
    patches, bank = torch.tensor([0.6, 0.0, 0.8]).expand(4, 4, 3), bank_of(RED)
    bank.add(0, BLUE[None, None], torch.ones(1, 1), negative=True)
    logits, difference = boxes_to_logits((2, 2, 9, 9)), torch.tensor(0.8 - 0.6)
    cases: tuple[tuple[dict[str, Any], float], ...] = (({}, 0.8), ({"negative_sigma": 0.3}, 0.3))
    for options, sigma in cases:
        found = match_masks(patches, logits, torch.ones(1), bank, image_size=(16, 16), **options)
        torch.testing.assert_close(found.scores[0], 0.6 * torch.exp(-difference / sigma))
        found = match_all_mask_class_pairs(patches, logits, bank, image_size=(16, 16), **options)
        torch.testing.assert_close(found.scores[0], 0.8 * torch.exp(-difference / sigma))
    pooled = patches[0, :1]
    factors = negative_penalty(pooled, class_similarity(pooled, bank), bank)
    torch.testing.assert_close(factors[0, 0], torch.exp(-difference / 0.8))


def test_pairs_of_pure_features_have_exact_scores() -> None:
    logits = boxes_to_logits((0, 0, 1, 16), (3, 3, 5, 5))
    found = match_all_mask_class_pairs(RED.expand(4, 4, 3), logits, bank_of(GREEN, RED), image_size=(16, 16))
    assert found.scores.tolist() == [1, 1, 0.5, 0.5]
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert found.boxes.tolist() == [[0, 0, 0, 15], [3, 3, 4, 4], [0, 0, 0, 15], [3, 3, 4, 4]]


def test_a_mask_of_the_first_column_and_one_that_is_empty() -> None:
    logits = torch.cat([torch.full((1, 16, 16), -1.0), boxes_to_logits((0, 0, 1, 16), (0, 0, 16, 1))])
    found = match_masks(RED.expand(4, 4, 3), logits, torch.tensor([1, 0.9, 0.8]), bank_of(RED), image_size=(16, 16))
    assert found.boxes.tolist() == [[0, 0, 0, 15], [0, 0, 15, 0]]
    # The second shares one pixel of its 16 with the first.
    torch.testing.assert_close(found.scores, torch.tensor([1, (1 - 1 / 16) ** 0.5]))


def test_a_mask_without_a_pixel_in_the_image_takes_no_place() -> None:
    logits = boxes_to_logits((3, 3, 4, 4), (8, 0, 16, 16))
    logits[0, 3, 3] = 0.1
    for count in (1, 5):
        found = match_masks(
            RED.expand(4, 4, 3),
            logits,
            torch.tensor([0.9, 0.5]),
            bank_of(RED),
            image_size=(2, 2),
            max_instances=count,
        )
        assert found.boxes.tolist() == [[1, 0, 1, 1]]
    pairs = match_all_mask_class_pairs(RED.expand(4, 4, 3), logits, bank_of(RED), image_size=(2, 2))
    assert pairs.boxes.tolist() == [[1, 0, 1, 1]]


def test_a_single_pixel_within_another_mask_loses_all() -> None:
    factors = overlap_decay(torch.tensor([[4.0, 1.0], [1.0, 1.0]]), RED.expand(2, 3), torch.tensor([0, 0]))
    assert factors.tolist() == [1, 0]


@pytest.mark.parametrize("most", [1, 150, 2**26])
def test_masks_are_pooled_together_as_one_by_one(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU does it."""
    monkeypatch.setattr(similarity, "_MOST_PIXELS", most)
    for count in (0, 1, 7):
        masks = torch.rand(count, 9, 8) > 0.5
        masks[:, 0, 0] = True
        rows, columns = torch.rand(9, 3), torch.rand(8, 4)
        together = similarity._grid_weights_together(masks, rows, columns)
        for one, other in zip(together, similarity._grid_weights(masks, rows, columns), strict=True):
            torch.testing.assert_close(one, other)
