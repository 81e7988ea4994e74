from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from no_time_to_train.data.coco import Annotation, Category, CocoDataset, ImageRecord
from no_time_to_train.data.datasets import TargetItem
from no_time_to_train.data.masks import encode_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.pl_wrapper.pictures import OverlayWriter
from tests.results.test_drawing import grey, square


def item(index: int) -> TargetItem:
    record = ImageRecord(index + 10, f"deep/name {index}.jpg", 64, 60)
    return TargetItem(index, record, grey())


def found(*scores: float, masks: Any = None) -> Prediction:
    """Return an instance of each score."""
    masks = square() if masks is None else masks
    boxes, labels = np.zeros((len(scores), 4), np.float32), np.zeros(len(scores), np.int64)
    return Prediction(masks, boxes, np.array(scores, np.float32), labels, ("thing",), masks.shape[1:])


def test_as_many_overlays_as_asked_for(tmp_path: Path) -> None:
    for count, expected in ((0, 0), (2, 2), (-1, 3)):
        overlays = OverlayWriter(tmp_path / str(count), None, count, 0.5)
        for index in range(3):
            overlays.draw(item(index), found(0.9))
        assert len(list((tmp_path / str(count)).glob("*.png"))) == expected


def test_only_scores_of_at_least_the_least_are_drawn(tmp_path: Path) -> None:
    masks = np.concatenate([square(), np.roll(square(), 20, axis=2)])
    masks[0, :, 30:] = False
    both = found(0.5, 0.25, masks=masks)
    for score, right_changed in ((0.5, False), (0.25, True)):
        OverlayWriter(tmp_path / str(score), None, -1, score).draw(item(0), both)
        with Image.open(tmp_path / str(score) / "name 0_10.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape == (60, 64, 3)
        assert (pixels[36, 24] != 128).any()
        assert (pixels[36, 54] != 128).any() == right_changed


def test_truth_on_the_left_and_what_was_found_on_the_right(tmp_path: Path) -> None:
    annotation = Annotation(1, 10, 4, (20, 20, 20, 20), 400, encode_mask(square()[0]))
    truth = CocoDataset((item(0).record,), (annotation,), (Category(4, "thing"),))
    OverlayWriter(tmp_path, truth, -1, 0.5).draw(item(0), found(0.4))
    with Image.open(tmp_path / "name 0_10.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (60, 64 + 8 + 64, 3)
    left, right = pixels[:, :64], pixels[:, 72:]
    assert (left[30, 30] != 128).any()
    # The instance scores less than asked for.
    assert (right == 128).all()
