"""Torch's operators and NumPy's give the same answers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from no_time_to_train.matching import MemoryBank, match_masks
from no_time_to_train.matching.array_ops import (
    as_float,
    as_like,
    foreground_of,
    is_numpy,
    max_by_class,
    normalize,
    sum_by_class,
    take,
    to_numpy,
)
from no_time_to_train.matching.boxes import batched_nms
from no_time_to_train.matching.changes import mask_changes
from no_time_to_train.matching.debias import PositionalDebias
from no_time_to_train.matching.scoring import Instances, match_all_mask_class_pairs
from no_time_to_train.matching.similarity import pool_masks, pool_upsampled
from no_time_to_train.matching.tiled_masks import intersections, resize_masks


def alike(of_torch: Tensor, of_numpy: Any, atol: float = 0.0) -> None:
    assert isinstance(of_numpy, np.ndarray)
    torch.testing.assert_close(torch.from_numpy(of_numpy), of_torch, atol=atol, rtol=0)


def test_foreground_is_above_zero() -> None:
    logits = torch.tensor([[-1.5, 0.0, 1e-30], [2.0, float("nan"), -0.0]])
    for values in (logits, logits[:, ::2], logits > 0, logits.double()):
        found = foreground_of(values)
        assert torch.equal(found, (values > 0).float())
        alike(found, foreground_of(values.numpy()))
        assert foreground_of(values.numpy()).dtype == np.float32


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_is_alike(threshold: float) -> None:
    # Corners on a small grid: some boxes are the same, some have no area, and many IoUs are the threshold itself.
    corners = torch.randint(0, 11, (300, 2, 2)).sort(dim=1).values.flatten(1).float()
    scores, labels = torch.rand(300), torch.randint(0, 3, (300,))
    scores[50:60] = 0.5
    kept = batched_nms(corners, scores, labels, threshold)
    alike(kept, batched_nms(corners.numpy(), scores.numpy(), labels.numpy(), threshold))
    assert 0 < len(kept) < 300
    nothing = np.zeros((0, 4), dtype=np.float32)
    assert batched_nms(nothing, nothing[:, 0], np.zeros(0, dtype=np.int64), threshold).shape == (0,)


def test_sums_and_maxima_by_class_are_alike() -> None:
    rows, classes = torch.randn(20, 6), torch.randint(0, 4, (20,))
    alike(sum_by_class(rows, classes, 5), sum_by_class(rows.numpy(), classes.numpy(), 5), atol=1e-6)
    alike(max_by_class(rows.T, classes, 5), max_by_class(rows.T.numpy(), classes.numpy(), 5))
    assert max_by_class(torch.tensor([[0.2, 0.7, -1.0]]), torch.tensor([1, 1, 2]), 4).tolist() == [
        pytest.approx([0, 0.7, 0, 0])
    ]


def test_rows_are_normalized_alike() -> None:
    rows = torch.randn(5, 3)
    rows[2] = 0
    expected = torch.nn.functional.normalize(rows, dim=1)
    assert torch.equal(normalize(rows), expected)
    alike(expected, normalize(rows.numpy()), atol=1e-7)
    torch.testing.assert_close(normalize(torch.tensor([[3e-13, 4e-13]])), torch.tensor([[0.3, 0.4]]))


def test_one_kind_becomes_the_other() -> None:
    tensor, array = torch.ones(2, dtype=torch.float16, requires_grad=True), np.ones(2)
    assert (is_numpy(array), is_numpy(tensor)) == (True, False)
    assert isinstance(to_numpy(tensor), np.ndarray)
    assert as_like(array, tensor).dtype == torch.float64
    assert not as_like(tensor, tensor).requires_grad
    assert as_like(tensor, array).dtype == np.float16
    assert (as_float(tensor).dtype, as_float(array).dtype) == (torch.float32, np.float32)
    assert take(np.arange(6).reshape(2, 3), np.array([2, 0]), 1).tolist() == [[2, 0], [5, 3]]


def discs(count: int, height: int, width: int) -> Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    places = torch.rand(3, count, 1, 1)
    logits: Tensor = (
        places[2] * max(height, width) / 2 - ((y - places[0] * height) ** 2 + (x - places[1] * width) ** 2).sqrt()
    )
    return logits


@pytest.mark.parametrize("size", [(97, 133), (20, 30)])
@pytest.mark.parametrize("pool", [pool_masks, pool_upsampled])
def test_matching_is_alike(size: tuple[int, int], pool: Any) -> None:
    patches, logits, quality = torch.randn(9, 12, 16) + 0.3, discs(60, 48, 64), torch.rand(60)
    logits[3] = -1
    banks = [MemoryBank(["a", "b", "c"], 16, "e") for _ in range(2)]
    for index in range(3):
        for negative in (False, False, True):
            features, mask = torch.randn(9, 12, 16) + 0.3, torch.rand(9, 12)
            banks[0].add(index, features, mask, negative)
            banks[1].add(index, features.numpy(), mask.numpy(), negative)
    arguments = {"image_size": size, "max_instances": 20, "pool": pool}
    expected = match_masks(patches, logits, quality, banks[0], **arguments)
    assert len(expected) > 5
    # Whatever the bank holds, results are of the kind of the masks.
    for bank in banks:
        found = match_masks(patches.numpy(), logits.numpy(), quality.numpy(), bank, **arguments)
        alike(expected.scores, found.scores, atol=1e-6)
        for name in ("masks", "boxes", "labels"):
            alike(getattr(expected, name), getattr(found, name))
    assert torch.equal(match_masks(patches, logits, quality, banks[1], **arguments).labels, expected.labels)
    pairs = match_all_mask_class_pairs(patches, logits, banks[0], image_size=size, max_instances=25)
    found = match_all_mask_class_pairs(patches.numpy(), logits.numpy(), banks[1], image_size=size, max_instances=25)
    alike(pairs.scores, found.scores, atol=1e-6)
    for name in ("masks", "boxes", "labels"):
        alike(getattr(pairs, name), getattr(found, name))


def test_nothing_is_of_the_same_kind() -> None:
    bank = MemoryBank(["a"], 3, "e")
    bank.add(0, np.ones((1, 1, 3)), np.ones((1, 1)))
    arrays = np.ones((2, 2, 3), dtype=np.float32), np.full((2, 8, 8), -1.0, dtype=np.float32)
    found = match_masks(*arrays, np.ones(2, dtype=np.float32), bank, image_size=(5, 6))
    assert isinstance(found.masks, np.ndarray)
    assert (found.masks.shape, found.boxes.shape, len(found)) == ((0, 5, 6), (0, 4), 0)
    assert isinstance(found.to("cpu").scores, np.ndarray)
    assert isinstance(Instances.empty((5, 6)).masks, Tensor)


def test_tiles_changes_and_debiasing_are_alike() -> None:
    logits = discs(9, 40, 50)
    logits[:, 10:12] = 0  # which is background, also where nothing is rounded
    for size in ((71, 93), (11, 7), (40, 50)):
        masks = resize_masks(logits, size)
        alike(masks, resize_masks(logits.numpy(), size))
        alike(intersections(logits, size), intersections(logits.numpy(), size))
        for ours, theirs in zip(mask_changes(masks.numpy()), mask_changes(masks), strict=True):
            assert np.array_equal(ours, theirs)
    patches, blank = torch.randn(6, 5, 8), torch.randn(6, 5, 8)
    expected = PositionalDebias(lambda _h, _w: blank, components=3)(patches)
    # Directions of the two libraries' SVDs agree up to their sign, which projecting them out does not see.
    alike(expected, PositionalDebias(lambda _h, _w: blank.numpy(), components=3)(patches.numpy()), atol=1e-5)
