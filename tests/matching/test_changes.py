import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from no_time_to_train.data.masks import encode_changes, encode_masks
from no_time_to_train.matching import changes
from no_time_to_train.matching.changes import mask_changes


@pytest.mark.parametrize("together", [1, 50, 2**28])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (12, 31)])
def test_masks_are_encoded_as_from_their_pixels(size: Any, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_TOGETHER", together)
    whole, corner = torch.ones(1, *size, dtype=torch.bool), torch.zeros(1, *size, dtype=torch.bool)
    corner[0, 0, 0] = True
    masks = torch.cat([~whole, whole, torch.rand(5, *size) > 0.5, ~whole, corner, torch.rand(4, *size) > 0.9, whole])
    assert encode_changes(*mask_changes(masks), *size) == encode_masks(masks.numpy())


def test_no_masks_are_no_results() -> None:
    assert encode_changes(*mask_changes(torch.zeros(0, 4, 5, dtype=torch.bool)), 4, 5) == []


def test_few_masks_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, peaks = np.ones((64, 40, 50), dtype=bool), []
    for together in (3 * 2000, 64 * 2000):
        monkeypatch.setattr(changes, "_TOGETHER", together)
        tracemalloc.start()
        mask_changes(masks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A few copies of 3 masks of 2000 bytes, 69 kB in all; of 64 masks.
    assert peaks[0] < 120_000 < 256_000 < peaks[1]
