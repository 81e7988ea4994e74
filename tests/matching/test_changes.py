from typing import Any

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
