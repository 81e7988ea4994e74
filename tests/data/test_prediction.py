"""What was found in one image, and its ways out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.masks import decode_mask, encode_masks
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.data.records import Annotation
from no_time_to_train.errors import ConfigError, ImageSizeError, OutputError


def found(**changes: Any) -> Prediction:
    masks = np.zeros((2, 5, 7), dtype=bool)
    masks[0, 1:4, 2:7], masks[1, 4, 0] = True, True
    values: dict[str, Any] = {
        "masks": masks,
        "boxes": np.array([[2, 1, 6, 3], [0, 4, 0, 4]], np.float32),
        "scores": np.array([0.75, 0.5], np.float32),
        "labels": np.array([1, 0]),
        "class_names": ("cat", "dog"),
        "image_size": (5, 7),
    }
    return Prediction(**values | changes)


def test_it_is_shown_in_a_line() -> None:
    assert repr(found()) == "Prediction(1 cat, 1 dog; 5x7)"
    assert repr(found(labels=np.array([1, 1]))) == "Prediction(2 dog; 5x7)"
    assert repr(found().filter(2.0)) == "Prediction(none; 5x7)"
    assert (len(found()), found().names) == (2, ["dog", "cat"])


@pytest.mark.parametrize("encoded", [False, True])
def test_instances_of_a_least_score_stay(encoded: bool) -> None:
    whole = found(encoded_masks=encode_masks(found().masks) if encoded else None)
    for least, count in ((0.5, 2), (0.51, 1), (0.75, 1), (0.76, 0)):
        kept = whole.filter(least)
        assert len(kept) == len(kept.masks) == len(kept.boxes) == len(kept.labels) == count
        assert kept.names == ["dog", "cat"][:count]
        assert kept.to_coco(1) == found().to_coco(1)[:count]
        assert kept.above(least).to_coco(1) == kept.to_coco(1)
    with pytest.raises(ConfigError, match="min_score is 'high'"):
        whole.filter("high")  # type: ignore[arg-type] # what a user may pass


def test_results_are_cocos() -> None:
    results = found().to_coco(8, [30, 70])
    assert [entry["bbox"] for entry in results] == [[2, 1, 5, 3], [0, 4, 1, 1]]
    assert [entry["category_id"] for entry in results] == [70, 30]
    assert [entry["score"] for entry in results] == [0.75, 0.5]
    assert {entry["image_id"] for entry in results} == {8}
    decoded = decode_mask(Annotation(1, 8, 70, (0, 0, 1, 1), 1, results[0]["segmentation"]), 5, 7)
    assert np.array_equal(decoded, found().masks[0])
    assert [entry["category_id"] for entry in found().to_coco()] == [2, 1]
    assert "image_id" not in found().to_coco()[0]
    assert [entry["bbox"] for entry in found(far_pixel=0).to_coco()] == [[2, 1, 4, 2], [0, 4, 0, 0]]
    assert found().filter(1).to_coco(8) == []
    json.dumps(results)
    with pytest.raises(ConfigError, match="got 1 category_ids for 2 classes"):
        found().to_coco(8, [30])


def test_masks_are_encoded_once() -> None:
    prediction = found()
    assert prediction.segmentations is prediction.segmentations
    other = encode_masks(np.ones((2, 5, 7), dtype=bool))
    assert found(encoded_masks=other).segmentations is other


def test_supervision_takes_it() -> None:
    detections = found().to_supervision()
    assert detections.xyxy.tolist() == [[2, 1, 7, 4], [0, 4, 1, 5]]
    assert detections.mask is not None
    assert np.array_equal(detections.mask, found().masks)
    assert list(detections.data["class_name"]) == ["dog", "cat"]
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [1, 0]


def test_it_is_drawn_over_its_image() -> None:
    image = np.full((5, 7, 3), 128, np.uint8)
    drawn = np.asarray(found().draw(image))
    assert drawn.shape == (5, 7, 3)
    assert (drawn != 128).any()
    assert (image == 128).all()
    assert np.array_equal(np.asarray(found().filter(1).draw(image)), image)
    with pytest.raises(ImageSizeError, match="the image is 5 wide and 7 high, the masks are of one of 7 by 5"):
        found().draw(image.transpose(1, 0, 2))
    with pytest.raises(ConfigError, match="opacity is 2"):
        found().draw(image, opacity=2)


def test_a_saved_file_is_read_back(tmp_path: Path) -> None:
    path = found().save(tmp_path / "found.json", file_name="boat.jpg")
    dataset = load_coco(path)
    assert [(image.file_name, image.height, image.width) for image in dataset.images] == [("boat.jpg", 5, 7)]
    assert dataset.class_names == ("cat", "dog")
    assert [entry.bbox for entry in dataset.annotations] == [(2, 1, 5, 3), (0, 4, 1, 1)]
    assert [entry.area for entry in dataset.annotations] == [15, 1]
    for entry, mask in zip(dataset.annotations, found().masks, strict=True):
        assert np.array_equal(decode_mask(entry, 5, 7), mask)
    assert [entry["score"] for entry in json.loads(path.read_text())["annotations"]] == [0.75, 0.5]


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'yolo', expected one of coco"):
        found().save(tmp_path / "found.txt", "yolo")  # type: ignore[arg-type] # what a user may pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        found().save(tmp_path / "file" / "found.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
