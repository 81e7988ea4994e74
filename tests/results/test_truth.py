import json
import logging
from pathlib import Path
from typing import Any

import pytest

from no_time_to_train.data.coco import load_coco
from no_time_to_train.errors import AnnotationError, MaskSizeError
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule
from no_time_to_train.results.truth import check_masks, doubts_of

SIDE = 64
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def written(folder: Path, **changes: Any) -> Path:
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [SQUARE]}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [annotation | changes],
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[10, 10, 30, 30]], "at least 6, got 4 numbers"),
        ([SQUARE, [1, 1]], "polygon 1 of annotation 7"),
        ([[*SQUARE, 5]], "even count"),
        (SQUARE, "polygon 0 of annotation 7"),
        ([["10"] * 6], "expected numbers"),
        ([[10, 10, 1e9, 10, 30, 30]], "expected numbers from -640 to 640"),
        ({"size": [SIDE, SIDE], "counts": [5, 5]}, "counts that sum to 10"),
        ({"size": [SIDE, SIDE], "counts": "!!!"}, "malformed counts"),
        ({"size": [SIDE, SIDE]}, "malformed counts"),
    ],
)
def test_malformed_masks_of_targets_are_refused_before_anything_is_computed(
    tmp_path: Path, segmentation: Any, message: str
) -> None:
    path = written(tmp_path, segmentation=segmentation)
    data = ReferenceTargetDataModule(targets=path, target_images=tmp_path)
    with pytest.raises(AnnotationError, match=rf"truth\.json.*{message}"):
        data.check_targets()


def test_masks_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, segmentation={"size": [SIDE, SIDE + 1], "counts": [SIDE * (SIDE + 1)]})
    with pytest.raises(MaskSizeError, match=r"truth\.json.*expected 64x64 pixels, got 65x64"):
        check_masks(load_coco(path))


@pytest.mark.parametrize("segmentation", [[SQUARE], [], [[]], None, {"size": [SIDE, SIDE], "counts": [0, SIDE**2]}])
def test_valid_masks_pass(tmp_path: Path, segmentation: Any) -> None:
    check_masks(load_coco(written(tmp_path, segmentation=segmentation)))


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"bbox": [30, 30, 50, 60]}, "outside their image"),
        ({"bbox": [0.1, 0.1, 0.3, 0.4]}, "less than a pixel"),
        ({"iscrowd": 1}, "crowds"),
        ({"negative": True}, "negative"),
    ],
)
def test_what_makes_average_precision_wrong_is_told(
    tmp_path: Path, changes: dict[str, Any], doubt: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = ReferenceTargetDataModule(targets=written(tmp_path, **changes), target_images=tmp_path)
    with caplog.at_level(logging.WARNING):
        data.target_dataset(["x"])
        data.target_dataset(["x"])
    (record,) = caplog.records
    assert record.message.startswith("1 of 1 annotations of ")
    assert doubt in record.message
    assert record.message.endswith("(first: annotation 7 in a.jpg)")


@pytest.mark.parametrize("bbox", [[10, 10, 20, 20], [-2, 0, 66, 66], [5, 5, 0, 9], [5, 5, 0, 0]])
def test_ordinary_boxes_raise_no_doubt(tmp_path: Path, bbox: list[float]) -> None:
    assert doubts_of(load_coco(written(tmp_path, bbox=bbox))) == []
