import pytest
import torch
from torchvision.ops import masks_to_boxes

from no_time_to_train.matching.boxes import mask_boxes


@pytest.mark.parametrize("shape", [(9, 14), (1, 8), (8, 1), (1, 1)])
def test_boxes_are_torchvisions(shape: tuple[int, int]) -> None:
    masks = torch.rand(30, *shape) > 0.9
    masks[:, int(torch.randint(shape[0], ())), int(torch.randint(shape[1], ()))] = True
    assert torch.equal(mask_boxes(masks).float(), masks_to_boxes(masks))
    logits = torch.rand(30, *shape).where(masks, 0.0) * 2 - 1
    assert torch.equal(mask_boxes(masks * 3.0 - 1), mask_boxes(masks))
    assert torch.equal(mask_boxes(logits), mask_boxes(logits > 0))


def test_what_has_no_foreground_has_no_box() -> None:
    assert mask_boxes(torch.zeros(1, 4, 6, dtype=torch.bool)).tolist() == [[6, 4, -1, -1]]
    assert mask_boxes(torch.zeros(1, 4, 6)).tolist() == [[6, 4, -1, -1]]
    assert mask_boxes(torch.zeros(0, 4, 6)).shape == (0, 4)
