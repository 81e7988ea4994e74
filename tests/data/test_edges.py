"""The last value that readers of annotations take, and the first that they refuse."""

from pathlib import Path
from typing import Any

import pytest

from no_time_to_train.data.coco import load_coco, shown_value
from no_time_to_train.data.masks import _FARTHEST_IN_IMAGE_SIZES, decode_mask
from no_time_to_train.data.references.sets import _meets
from no_time_to_train.errors import AnnotationError
from tests.data.coco_documents import annotation, document, write


def with_annotation(tmp_path: Path, **more: Any) -> Path:
    return write(document() | {"annotations": [annotation(20, 7, 5) | more]}, tmp_path)


@pytest.mark.parametrize(
    ("taken", "refused", "message"),
    [
        ({"bbox": [0, 0, 2**53 - 1, 1]}, {"bbox": [0, 0, 2**53, 1]}, "finite numbers in bbox"),
        ({"bbox": [1 - 2**53, 0, 1, 1]}, {"bbox": [-(2**53), 0, 1, 1]}, "finite numbers in bbox"),
        ({"bbox": [0, 0, 0, 5]}, {"bbox": [0, 0, -0.5, 5]}, "no negative width or height"),
        ({"bbox": [0, 0, 5, 0]}, {"bbox": [0, 0, 5, -0.5]}, "no negative width or height"),
        ({"bbox": [0, 0, 5, 5]}, {"bbox": [0, 0, 5, 5, 5]}, "expected bbox"),
        ({"id": 2**63 - 1}, {"id": 2**63}, "expected id as an integer"),
        ({"iscrowd": 1}, {"iscrowd": 2}, "expected iscrowd as 0 or 1"),
    ],
)
def test_annotations(taken: dict[str, Any], refused: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert len(load_coco(with_annotation(tmp_path, **taken)).annotations) == 1
    with pytest.raises(AnnotationError, match=message):
        load_coco(with_annotation(tmp_path, **refused))


@pytest.mark.parametrize(("size", "taken"), [((1, 1), True), ((0, 1), False), ((1, 0), False)])
@pytest.mark.parametrize("scale", [1, 2**31 - 1, 2**31])
def test_sizes_of_images(size: tuple[int, int], taken: bool, scale: int, tmp_path: Path) -> None:
    content = document() | {"annotations": []}
    content["images"][0].update(width=size[0] * scale, height=size[1])
    if taken and scale < 2**31:
        assert load_coco(write(content, tmp_path)).images[0].width == scale
        return
    with pytest.raises(AnnotationError, match=r"at least 1x1 and less than 2\^31 pixels"):
        load_coco(write(content, tmp_path))


def test_ids_that_name_nothing(tmp_path: Path) -> None:
    for more, message in (({"image_id": 8}, "image_id 8 is not among"), ({"category_id": 8}, "category_id 8 is not")):
        with pytest.raises(AnnotationError, match=message):
            load_coco(with_annotation(tmp_path, **more))


def test_values_are_shown_in_few_characters() -> None:
    assert shown_value(list(range(8))) == "[0, 1, 2, 3, 4, 5, 6, 7]"
    assert shown_value(list(range(9))) == "a list of 9"
    assert shown_value([1, [2]]) == "a list of 2"
    assert shown_value({"a": 1}) == "an object with 1 keys"
    assert shown_value(10**20) == str(10**20)
    assert shown_value(-(10**20) - 1) == "an integer of more than 20 digits"
    assert shown_value("a" * 58) == repr("a" * 58)
    assert shown_value("a" * 59) == "'" + "a" * 56 + "..."


@pytest.mark.parametrize(
    ("start", "size", "meets"),
    [
        *((0, 0, True), (9, 0, True), (-0.5, 0, False), (9.5, 0, False), (-2, 2, False)),
        *((-2, 3, True), (9, 1, False), (8.5, 1, True), (0, 9, True), (-1, 20, True)),
    ],
)
def test_stretches_within_a_side(start: float, size: float, meets: bool) -> None:
    assert _meets(start, size, 9) is meets


def pixels(tmp_path: Path, segmentation: Any) -> int:
    (record,) = load_coco(with_annotation(tmp_path, segmentation=segmentation)).annotations
    return int(decode_mask(record, 6, 8).sum())


def test_polygons(tmp_path: Path) -> None:
    far = _FARTHEST_IN_IMAGE_SIZES * 8
    assert pixels(tmp_path, [[0, 0, 8, 0, 8, 6]]) > 0
    assert pixels(tmp_path, [[0, 0, far, 0, 0, 6]]) > 0
    for wrong in ([0, 0, 8, 0], [0, 0, 8, 0, 8, 6, 0], [0, 0, far + 1, 0, 0, 6], [0, 0, -far - 1, 0, 0, 6]):
        with pytest.raises(AnnotationError, match="polygon 0 of annotation 20"):
            pixels(tmp_path, [wrong])


@pytest.mark.parametrize(
    ("counts", "foreground"),
    [
        ([48], 0),
        ([0, 48], 48),
        ([47, 1], 1),
        ([40, 0, 8], 0),
        ([47], None),
        ([49], None),
        ([-1, 49], None),
        ([2**31 - 1], None),
        ([2**31], None),
        ([48.0], None),
        ("", None),
        ("`", None),
        ("o", None),
        ("/", None),
    ],
)
def test_runs(counts: Any, foreground: int | None, tmp_path: Path) -> None:
    rle = {"size": [6, 8], "counts": counts}
    if foreground is not None:
        assert pixels(tmp_path, rle) == foreground
        return
    with pytest.raises(AnnotationError, match="RLE of annotation 20: expected counts that sum to its 48 pixels"):
        pixels(tmp_path, rle)
