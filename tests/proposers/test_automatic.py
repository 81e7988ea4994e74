"""The automatic mask generator against Meta's, and its parts against plain loops."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.utils.amg import calculate_stability_score
from torch import Tensor
from torchvision.ops import box_iou

from no_time_to_train.configs.pipeline import AmgConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.proposers.automatic import (
    AutomaticMaskGenerator,
    _sure_masks,
    remove_small_regions,
    stability_score,
    suppress_duplicates,
)
from no_time_to_train.proposers.base import MaskProposals
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2
from tests.proposers.sam2_oracle import SCRIPT_WARNING, save_meta, tiny_meta
from tests.proposers.toy import SIDE, ToyPromptable
from tests.tiny import IMAGE_SIZE, write_config

MASK_SIZE = IMAGE_SIZE // 4


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Sam2Predictor:
    folder: Path = tmp_path_factory.mktemp("amg")
    return build_sam2(write_config(folder), save_meta(folder))


@pytest.fixture
def image() -> Tensor:
    # At the masks' own size Meta's resizing of the masks to the image changes nothing, so that both see the same.
    return torch.randint(0, 256, (3, MASK_SIZE, MASK_SIZE), dtype=torch.uint8)


# In the middle of what the random model gives, so that each filter drops a part.
SETTINGS = AmgConfig(
    points_per_side=4,
    points_per_batch=5,
    pred_iou_thresh=0.34,
    stability_score_thresh=0.83,
    stability_score_offset=0.1,
    box_nms_thresh=1.0,
)


@pytest.mark.filterwarnings(SCRIPT_WARNING)
@pytest.mark.parametrize("box_nms_thresh", [1.0, 0.7])
def test_masks_are_metas(sam2: Sam2Predictor, image: Tensor, box_nms_thresh: float) -> None:
    settings = replace(SETTINGS, box_nms_thresh=box_nms_thresh)
    ours = AutomaticMaskGenerator(sam2, settings)(sam2.embed(sam2.preprocess(image)))

    theirs = SAM2AutomaticMaskGenerator(tiny_meta("2.1"), **asdict(settings))
    theirs.predictor._bb_feat_sizes = [(IMAGE_SIZE // stride,) * 2 for stride in (4, 8, 16)]
    expected = theirs.generate(image.permute(1, 2, 0).numpy())

    assert expected
    torch.testing.assert_close(ours.predicted_iou, torch.tensor([mask["predicted_iou"] for mask in expected]))
    segmentations = torch.from_numpy(np.stack([mask["segmentation"] for mask in expected]))
    assert ((ours.mask_logits > 0) == segmentations).float().mean() > 0.9999


def test_each_filter_drops_a_part(sam2: Sam2Predictor, image: Tensor) -> None:
    embedding = sam2.embed(sam2.preprocess(image))
    counts = [
        len(AutomaticMaskGenerator(sam2, settings)(embedding).predicted_iou)
        for settings in (
            replace(SETTINGS, box_nms_thresh=0.7),
            SETTINGS,
            replace(SETTINGS, stability_score_thresh=0.0),
            replace(SETTINGS, pred_iou_thresh=0.0, stability_score_thresh=0.0),
        )
    ]
    assert counts[0] < counts[1] < counts[2] < counts[3] == 4 * 4 * 3


def test_masks_need_more_than_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing that small regions need is there, because none are looked for.
    monkeypatch.setitem(sys.modules, "cv2", None)
    model = ToyPromptable()
    embedding = model.embed(model.preprocess(torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)))
    settings = AmgConfig(points_per_side=1, pred_iou_thresh=0.5, stability_score_thresh=0.0, box_nms_thresh=1.0)
    masks = AutomaticMaskGenerator(model, settings)(embedding)
    # Of 0.7, 0.9 and 0.5.
    assert torch.equal(masks.predicted_iou, torch.tensor([0.9, 0.7]))
    assert (masks.mask_logits > 0).all()


def test_which_masks_are_sure() -> None:
    logits = torch.zeros(4, 2, 3)
    logits[1, 0, 1] = 2.0  # one pixel above 1, and five more above -1
    logits[2] = torch.tensor([[2.0, 2.0, 2.0], [0.5, 0.5, 0.5]])
    logits[3] = -2.0
    predicted_iou = torch.tensor([0.1, 0.2, 0.3, 0.4])
    # Stability is 0, 1/6, 1/2 and 0. A logit of 0 is not inside, so that masks 0 and 3 are empty at any threshold.
    for threshold, rows in ((0.0, [1, 2]), (0.5, [2]), (0.51, [])):
        masks = _sure_masks(logits, predicted_iou, AmgConfig(stability_score_thresh=threshold))
        assert torch.equal(masks.predicted_iou, predicted_iou[rows])
        assert torch.equal(masks.mask_logits, logits[rows])


def test_no_masks(sam2: Sam2Predictor, image: Tensor) -> None:
    generator = AutomaticMaskGenerator(sam2, AmgConfig(points_per_side=2, pred_iou_thresh=1.0))
    masks = generator(sam2.embed(sam2.preprocess(image)))
    assert masks.mask_logits.shape == (0, MASK_SIZE, MASK_SIZE)
    assert masks.predicted_iou.shape == (0,)


def test_duplicates_are_suppressed() -> None:
    corner = torch.randint(0, 20, (40, 2))
    side = torch.randint(4, 12, (40, 2))
    boxes = torch.cat([corner, corner + side], dim=1)
    logits = torch.full((40, 32, 32), -1.0)
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        logits[row, y1:y2, x1:x2] = 1.0
    predicted_iou = torch.rand(40)

    overlap = box_iou(boxes.float(), boxes.float())
    expected: list[int] = []
    for row in predicted_iou.argsort(descending=True).tolist():
        if all(overlap[row, earlier] <= 0.313 for earlier in expected):
            expected.append(row)
    assert 5 < len(expected) < 35

    kept = suppress_duplicates(MaskProposals(logits, predicted_iou), 0.313)
    assert torch.equal(kept.predicted_iou, predicted_iou[expected])
    assert torch.equal(kept.mask_logits, logits[expected])


def test_stability_is_metas() -> None:
    logits = torch.randn(6, 9, 11) * 2
    torch.testing.assert_close(stability_score(logits, 0.7), calculate_stability_score(logits, 0.0, 0.7))
    # Meta divides nothing by nothing for an empty mask, which a threshold then drops; a zero is dropped as well.
    assert stability_score(torch.full((1, 4, 4), -9.0)).tolist() == [0.0]


def _region(mask: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """Walk from a pixel to all that are connected with it, over corners too."""
    seen, stack = {start}, [start]
    while stack:
        row, column = stack.pop()
        for r in range(max(row - 1, 0), min(row + 2, mask.shape[0])):
            for c in range(max(column - 1, 0), min(column + 2, mask.shape[1])):
                if mask[r, c] == mask[start] and (r, c) not in seen:
                    seen.add((r, c))
                    stack.append((r, c))
    return seen


def test_small_regions_are_removed() -> None:
    logits = torch.randn(8, 12, 14) + 0.3
    logits[0] = torch.tensor([[1.0, -1.0]]).repeat(12, 7)  # long thin regions
    expected = logits.clone()
    for row, mask in enumerate((logits > 0).numpy()):
        for pixel in np.ndindex(mask.shape):
            if len(_region(mask, pixel)) <= 5:
                expected[row][pixel] = -10 if mask[pixel] else 10
    assert (expected == 10).any()
    assert (expected == -10).any()
    assert torch.equal(remove_small_regions(logits, 5), expected)
    assert remove_small_regions(logits[:0], 5).shape == (0, 12, 14)


def test_a_spiral_is_one_region() -> None:
    mask = torch.zeros(17, 17, dtype=torch.bool)
    row, column, step = 0, 0, (0, 1)
    for length in (16, 16, 16, 14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2):
        for _ in range(length):
            mask[row, column] = True
            row, column = row + step[0], column + step[1]
        step = (step[1], -step[0])
    area = int(mask.sum())
    assert area == 160
    logits = torch.where(mask, 1.0, -1.0)[None]
    assert torch.equal(remove_small_regions(logits, area - 1)[:, mask], logits[:, mask])
    assert (remove_small_regions(logits, area)[:, mask] == -10).all()


def test_small_regions_in_the_generator(sam2: Sam2Predictor, image: Tensor) -> None:
    embedding = sam2.embed(sam2.preprocess(image))
    settings = replace(SETTINGS, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    plain = AutomaticMaskGenerator(sam2, settings)(embedding)
    cleaned = AutomaticMaskGenerator(sam2, replace(settings, min_mask_region_area=8))(embedding)
    assert not torch.equal(plain.mask_logits, cleaned.mask_logits)
    assert torch.equal(cleaned.mask_logits, remove_small_regions(plain.mask_logits, 8))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("points_per_side", 0),
        ("points_per_batch", 0),
        ("pred_iou_thresh", 1.5),
        ("stability_score_thresh", -0.1),
        ("stability_score_offset", -1.0),
        ("box_nms_thresh", 7.0),
        ("min_mask_region_area", -1),
    ],
)
def test_settings_out_of_range(setting: str, value: float) -> None:
    changes: dict[str, Any] = {setting: value}
    with pytest.raises(ConfigError, match=f"{setting} is {value}, expected"):
        replace(AmgConfig(), **changes)
