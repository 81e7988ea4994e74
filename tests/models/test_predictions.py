"""Instances as NumPy arrays."""

import numpy as np
import pytest
import torch

from no_time_to_train.matching import Instances
from no_time_to_train.models.predictions import to_prediction


@pytest.mark.parametrize(("far_pixel", "expected"), [({}, 1), ({"far_pixel": 0}, 0)])
def test_every_value_arrives(far_pixel: dict[str, int], expected: int) -> None:
    masks = torch.zeros(2, 3, 5, dtype=torch.bool)
    masks[0, 1, 2:4] = masks[1, 2, 0] = True
    boxes = torch.tensor([[2.0, 1.0, 3.0, 1.0], [0.0, 2.0, 0.0, 2.0]])
    instances = Instances(masks, boxes, torch.tensor([0.75, 0.5]), torch.tensor([1, 0]))
    found = to_prediction(instances, ["cat", "dog"], **far_pixel)
    assert np.array_equal(found.masks, masks.numpy())
    assert np.array_equal(found.boxes, boxes.numpy())
    assert found.scores.tolist() == [0.75, 0.5]
    assert found.labels.tolist() == [1, 0]
    assert found.names == ["dog", "cat"]
    assert found.class_names == ("cat", "dog")
    assert found.image_size == (3, 5)
    assert found.far_pixel == expected
    # On a CPU masks are encoded when they are asked for.
    assert found.encoded_masks is None
    assert found.segmentations[0]["size"] == [3, 5]


def test_nothing_found() -> None:
    found = to_prediction(Instances.empty((3, 5)), ["cat"])
    assert len(found) == 0
    assert found.image_size == (3, 5)
