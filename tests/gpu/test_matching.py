"""Matching on a GPU: the same instances as on a CPU, and as the original's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from no_time_to_train.matching import match_masks
from no_time_to_train.matching.similarity import pool_masks
from no_time_to_train.matching.tiled_masks import intersections, resize_masks
from tests.matching.test_golden import fill_bank, load_case
from tests.matching.test_tiled_masks import discs


@pytest.mark.parametrize("name", ["match_0", "match_1"])
def test_instances_are_the_originals(name: str, device: torch.device) -> None:
    case, parameters = load_case(name)
    grid = int(parameters["grid"])
    instances = match_masks(
        case["tar_feat"].reshape(grid, grid, -1).to(device),
        case["lr_masks"].to(device),
        case["pred_ious"].to(device),
        fill_bank(case, grid).to(device),
        image_size=(int(parameters["ori_h"]), int(parameters["ori_w"])),
        nms_threshold=float(parameters["nms_thr"]),
        max_instances=int(parameters["num_out"]),
    ).to("cpu")
    assert torch.equal(instances.labels, case["out_labels"])
    assert (instances.scores - case["out_scores"]).abs().max() <= 1e-5
    assert torch.equal(instances.masks, case["out_masks"].bool())
    assert torch.equal(instances.boxes, case["out_boxes"])


@pytest.mark.parametrize("size", [(71, 93), (8, 6), (900, 1300)])
def test_masks_are_resized_alike(size: tuple[int, int], device: torch.device) -> None:
    logits = discs(40, 50)
    assert torch.equal(resize_masks(logits.to(device), size).cpu(), resize_masks(logits, size))
    assert torch.equal(intersections(logits.to(device), size).cpu(), intersections(logits, size))


def test_many_masks_share_pixels_exactly(device: torch.device) -> None:
    logits = F.interpolate(torch.randn(203, 1, 9, 9), (64, 64), mode="bicubic")[:, 0]
    assert torch.equal(intersections(logits.to(device), (480, 640)).cpu(), intersections(logits, (480, 640)))
    # More pixels than float32 can count, and nothing but foreground.
    whole = torch.ones(3, 256, 256, device=device)
    assert (intersections(whole, (4200, 4300)) == torch.tensor(4200 * 4300.0)).all()


def test_features_are_pooled_alike(device: torch.device) -> None:
    patches, logits = torch.randn(9, 12, 64), F.interpolate(torch.randn(70, 1, 9, 9), (256, 256), mode="bicubic")[:, 0]
    found: Tensor = pool_masks(patches.to(device), logits.to(device)).cpu()
    # Sums of up to 108 patches in float32.
    torch.testing.assert_close(found, pool_masks(patches, logits), atol=2e-6, rtol=0)
