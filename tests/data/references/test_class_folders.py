"""A folder by class, and what can be unclear in one."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import read_references, reference_set
from no_time_to_train.data.references.builder import CLOSE_CROP_INSET
from no_time_to_train.errors import AnnotationError, EmptyClassError, EmptyMaskError, MaskSizeError
from tests.data.references import forms


def test_an_image_alone_is_a_close_crop(tmp_path: Path) -> None:
    forms.picture(tmp_path / "apple" / "1.jpg")
    forms.picture(tmp_path / "apple" / "more" / "2.png")
    found = read_references(tmp_path)
    x, y = CLOSE_CROP_INSET * 64, CLOSE_CROP_INSET * 48
    assert [a.bbox for a in found.dataset.annotations] == [(x, y, 64 - 2 * x, 48 - 2 * y)] * 2
    assert found.dataset.annotations[0].area == pytest.approx((64 - 2 * x) * (48 - 2 * y))
    assert [image.file_name for image in found.dataset.images] == ["apple/1.jpg", "apple/more/2.png"]
    assert len(reference_set(found.dataset).references) == 2


@pytest.mark.parametrize("name", ["1.png", "1_mask.png", "1_mask.bmp"])
def test_a_mask_may_be_beside(tmp_path: Path, name: str) -> None:
    forms.picture(tmp_path / "apple" / "1.jpg")
    forms.picture(tmp_path / "apple" / "2.jpg")
    Image.fromarray(forms.mask_of(forms.APPLE)).save(tmp_path / "apple" / name)
    first, second = read_references(tmp_path).dataset.annotations
    assert np.array_equal(decode_mask(first, 48, 64), forms.mask_of(forms.APPLE))
    assert second.segmentation is None


def test_labelme_may_be_beside(tmp_path: Path) -> None:
    forms.picture(tmp_path / "apple" / "a.png")
    document = forms.labelme_document("elsewhere/a.png")
    document["shapes"] = document["shapes"][:1]
    forms.text(tmp_path / "apple" / "a.json", json.dumps(document))
    found = read_references(tmp_path)
    assert list(found.dataset.annotations[0].bbox) == list(forms.APPLE)
    assert found.files == (tmp_path / "apple" / "a.json",)


def test_negatives_have_a_folder(tmp_path: Path) -> None:
    forms.by_class(tmp_path)
    forms.picture(tmp_path / "_not" / "apple" / "1.jpg", seed=2)
    references = reference_set(read_references(tmp_path).dataset)
    assert references.class_names == ("apple", "pear")
    assert [(r.class_index, r.negative) for r in references.references] == [(0, False), (0, True), (1, False)]
    (tmp_path / "_not" / "apple").rename(tmp_path / "_not" / "plum")
    with pytest.raises(EmptyClassError, match="plum; there are only negative references of plum"):
        reference_set(read_references(tmp_path).dataset)
    forms.picture(tmp_path / "_not" / "2.jpg")
    with pytest.raises(AnnotationError, match=r"_not: expected a folder for each class.*2\.jpg.*_not/CLASS/"):
        read_references(tmp_path)


def test_a_photograph_is_not_taken_for_a_mask(tmp_path: Path) -> None:
    forms.picture(tmp_path / "apple" / "1.jpg")
    forms.picture(tmp_path / "apple" / "1.png", seed=1)
    with pytest.raises(AnnotationError, match=r"1\.png counts as a mask .*more than 256 colors .*rename it"):
        read_references(tmp_path)
    Image.new("L", (64, 48), 255).save(tmp_path / "apple" / "1.png")
    with pytest.raises(AnnotationError, match="no pixel of 0"):
        read_references(tmp_path)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    forms.picture(tmp_path / "apple" / "1.jpg")
    mask = tmp_path / "apple" / "1.png"
    Image.fromarray(forms.mask_of(forms.APPLE, (48, 64))).save(mask)
    with pytest.raises(MaskSizeError, match=r"1\.png: a mask of 48x64 pixels for apple/1\.jpg of 64x48"):
        read_references(tmp_path)
    Image.new("L", (64, 48)).save(mask)
    with pytest.raises(EmptyMaskError, match=r"1\.png: the mask is empty"):
        read_references(tmp_path)
    mask.unlink()
    Image.fromarray(forms.mask_of(forms.APPLE)).convert("L").save(tmp_path / "apple" / "1_mask.jpg")
    with pytest.raises(AnnotationError, match="JPEG blurs a mask"):
        read_references(tmp_path)
    (tmp_path / "apple" / "1_mask.jpg").rename(tmp_path / "apple" / "3_mask.jpg")
    with pytest.raises(AnnotationError, match="called a mask, and there is no image 3 "):
        read_references(tmp_path)


def test_two_things_beside_an_image_are_refused(tmp_path: Path) -> None:
    forms.by_class(tmp_path)
    forms.text(tmp_path / "apple" / "1.txt", forms.yolo_rows())
    with pytest.raises(AnnotationError, match=r"expected one mask or annotation .*1\.png, 1\.txt"):
        read_references(tmp_path)
    (tmp_path / "apple" / "1.txt").unlink()
    forms.picture(tmp_path / "apple" / "1.jpeg")
    with pytest.raises(AnnotationError, match=r"1\.png, 1\.jp"):
        read_references(tmp_path)


def test_other_classes_beside_are_refused(tmp_path: Path) -> None:
    forms.picture(tmp_path / "apple" / "a.jpg")
    json_file = forms.text(tmp_path / "apple" / "a.json", json.dumps(forms.labelme_document()))
    with pytest.raises(AnnotationError, match=r"a\.json: expected shapes of the folder's class 'apple', got pear"):
        read_references(tmp_path)
    forms.text(json_file, json.dumps(forms.labelme_document(shapes=[{"label": ["apple"], "points": []}])))
    with pytest.raises(AnnotationError, match=r"a\.json: shapes\[0\]: expected an object with a label"):
        read_references(tmp_path)
    json_file.unlink()
    forms.text(tmp_path / "apple" / "a.txt", forms.yolo_rows())
    with pytest.raises(AnnotationError, match=r"a\.txt: expected rows of one class, 'apple', got rows of classes 0, 2"):
        read_references(tmp_path)


def test_what_is_left_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forms.by_class(tmp_path)
    forms.text(tmp_path / "pear" / "readme.txt", "Pears of 2024.")
    (tmp_path / "plum").mkdir()
    with pytest.raises(EmptyClassError, match="plum has no image"):
        read_references(tmp_path)
    (tmp_path / "plum").rmdir()
    with caplog.at_level(logging.WARNING):
        read_references(tmp_path)
    assert "readme.txt" in caplog.text
