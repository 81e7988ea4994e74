"""What makes a poor reference is said, and the contact sheet shows every reference."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.data.datasets import ReferenceItem
from no_time_to_train.data.masks import encode_mask
from no_time_to_train.data.references import LabeledImages, read_references, reference_set
from no_time_to_train.errors import ImageReadError
from no_time_to_train.results.reference_checks import (
    CheckedReference,
    check_references,
    shown_mask,
    with_drawn_masks,
)
from no_time_to_train.results.reference_sheet import write_reference_sheet
from tests.data.references.forms import mask_of, picture


def add(root: Path, name: str, box: tuple[int, int, int, int] | None, seed: int = 0) -> None:
    """Write an image of 64x48 pixels, with a mask that fills a box."""
    path = picture(root / f"{name}.png", seed=seed)
    if box is not None:
        Image.fromarray(mask_of(box)).save(path.with_name(f"{path.stem}_mask.png"))


def checked(found: LabeledImages, model: "Model | None" = None) -> list[CheckedReference]:
    return check_references(reference_set(found.dataset), found.images, model)


def said(found: LabeledImages, model: "Model | None" = None) -> list[str]:
    return [line for each in checked(found, model) for line in each.lines]


class Model:
    """Draws a given mask, and gives as feature what is given for the image's name."""

    def __init__(self, features: dict[str, tuple[float, float]], drawn: np.ndarray | None = None) -> None:
        self.features = features
        self.drawn = mask_of((20, 10, 20, 20)) if drawn is None else drawn

    def object_of(self, item: ReferenceItem) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        return self.drawn, (0.0, 0.0, 1.0, 1.0)

    def mean_of(self, item: ReferenceItem) -> np.ndarray:
        return np.array(self.features[Path(item.reference.image.file_name).stem])


def test_good_references_are_not_doubted(tmp_path: Path) -> None:
    add(tmp_path, "apple/1", (10, 10, 20, 20))
    add(tmp_path, "apple/2", (1, 1, 62, 46), seed=1)
    add(tmp_path, "pear/3", None, seed=2)
    add(tmp_path, "pear/4", (10, 10, 16, 16))  # the image of an apple, in another class
    assert said(read_references(tmp_path)) == []


def test_masks_at_the_border_are_told(tmp_path: Path) -> None:
    for index, box in enumerate([(0, 9, 20, 20), (9, 0, 20, 20), (44, 9, 20, 20), (9, 28, 20, 20)]):
        add(tmp_path, f"apple/{index}", box, seed=index)
    border = "its mask touches the border of the image: is the object cut off?"
    assert said(read_references(tmp_path)) == [f"apple: apple/{index}.png: {border}" for index in range(4)]


def test_boxes_at_the_border_are_told(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    typed = [f"{path}:apple@{numbers}" for numbers in ("10,10,30,30", "34,10,30,30", "0,1")]
    assert said(read_references(typed)) == [
        "apple: a.jpg: its box touches the border of the image: is the object cut off?"
    ]


def test_tiny_masks_are_told(tmp_path: Path) -> None:
    add(tmp_path, "apple/1", (10, 10, 15, 17))
    large = Image.new("RGB", (400, 300))
    large.save(tmp_path / "apple" / "2.png")
    Image.fromarray(mask_of((50, 50, 18, 20), (400, 300))).save(tmp_path / "apple" / "2_mask.png")
    assert said(read_references(tmp_path)) == ["apple: apple/1.png: its mask is tiny: 255 pixels, 8.3% of the image"]
    Image.fromarray(mask_of((50, 50, 17, 20), (400, 300))).save(tmp_path / "apple" / "2_mask.png")
    assert said(read_references(tmp_path))[1] == "apple: apple/2.png: its mask is tiny: 340 pixels, 0.3% of the image"


def test_an_image_that_is_there_twice_is_told(tmp_path: Path) -> None:
    for name in ("apple/1", "apple/2", "pear/1", "_not/apple/1"):
        add(tmp_path, name, (10, 10, 20, 20))
    add(tmp_path, "apple/3", (10, 10, 20, 20), seed=1)
    assert said(read_references(tmp_path)) == ["apple: apple/2.png: the same image as apple/1.png"]


def test_two_objects_of_an_image_are_not_doubted(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    assert said(read_references([f"{path}:apple@5,5,20,20", f"{path}:apple@35,5,20,20"])) == []


def test_drawn_masks_are_kept_and_looked_at(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    found = read_references([f"{path}:apple@5,5,50,40", f"{path}:apple@20,20"])
    by_box, by_point = checked(found, Model({"a": (1.0, 0.0)}))
    assert by_box.lines == by_point.lines == []
    assert by_point.annotation.segmentation == encode_mask(mask_of((20, 10, 20, 20)))
    assert (by_point.annotation.bbox, by_point.annotation.points) == ((20, 10, 20, 20), ())
    assert by_point.reference.annotation.segmentation is None
    whole = with_drawn_masks(found.dataset, [by_box, by_point])
    assert [a.segmentation for a in whole.annotations] == [encode_mask(mask_of((20, 10, 20, 20)))] * 2
    assert [a.id for a in whole.annotations] == [1, 2]
    few = checked(found, Model({"a": (1.0, 0.0)}, mask_of((20, 10, 11, 18))))
    assert few[0].lines[-1] == "apple: a.jpg: the mask that was drawn covers 10% of the box: look at it"


def test_what_is_unlike_its_class_is_told(tmp_path: Path) -> None:
    features = {"1": (1.0, 0.0), "2": (1.0, 0.1), "3": (0.1, 1.0), "4": (0.0, 1.0), "5": (0.1, 1.0)}
    for index, name in enumerate(features):
        add(tmp_path, f"{'apple' if index < 3 else 'pear'}/{name}", (10, 10, 20, 20), seed=index)
    found = read_references(tmp_path)
    lines = said(found, Model(features))
    # The cosine of (0.1, 1) with (2, 0.1) is 0.149, with (0.1, 2) 0.999.
    assert lines == ["apple: apple/3.png: more like pear (1.00) than like the other references of its class (0.15)"]
    similarities = [each.similarity for each in checked(found, Model(features))]
    assert similarities[2] == pytest.approx(0.1490, abs=1e-4)  # four digits of the value above


def test_one_class_has_its_usual_likeness(tmp_path: Path) -> None:
    features = {"1": (1.0, 0.0), "2": (1.0, 0.1), "3": (1.0, 0.0), "4": (0.6, 0.8)}
    for index, name in enumerate(features):
        add(tmp_path, f"apple/{name}", (10, 10, 20, 20), seed=index)
    add(tmp_path, "_not/apple/5", (10, 10, 20, 20), seed=9)
    (line,) = said(read_references(tmp_path), Model(features | {"5": (0.0, 1.0)}))
    assert line.startswith("apple: apple/4.png: unlike the other references of its class: a cosine of 0.6")


def test_a_class_of_one_is_compared_with_nothing(tmp_path: Path) -> None:
    add(tmp_path, "apple/1", (10, 10, 20, 20))
    add(tmp_path, "pear/2", (10, 10, 20, 20), seed=1)
    each = checked(read_references(tmp_path), Model({"1": (1.0, 0.0), "2": (1.0, 0.0)}))
    assert [(one.similarity, one.lines) for one in each] == [(None, [])] * 2


def test_the_sheet_shows_each_reference(tmp_path: Path) -> None:
    root = tmp_path / "refs"
    add(root, "apple/1", (10, 10, 20, 20))
    add(root, "apple/2", None, seed=1)
    add(root, "_not/apple/3", (0, 10, 20, 20), seed=2)
    point = f"{picture(tmp_path / 'b.jpg')}:pear@30,20"
    found = read_references([root, point])
    results = checked(found)
    write_reference_sheet(results, found.images, tmp_path / "sheet.png", columns=2, side=100)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    # Rows of apples, of what is not an apple, and of pears: each has its title, pictures and captions.
    assert sheet.shape == (10 + 3 * (26 + 100 + 43 + 10), 2 * 110 + 10, 3)
    red = (sheet == (200, 20, 20)).all(axis=-1).any(axis=1)
    assert red.any()
    assert not red[: 10 + 179].any()
    assert np.array_equal(shown_mask(results[0]), mask_of((10, 10, 20, 20)))
    assert shown_mask(results[-1])[20, 30]
    assert shown_mask(results[-1]).sum() < 20


def test_a_sheet_of_a_lost_image_is_not_written(tmp_path: Path) -> None:
    add(tmp_path, "apple/1", (10, 10, 20, 20))
    found = read_references(tmp_path)
    results = checked(found)
    (tmp_path / "apple" / "1.png").unlink()
    with pytest.raises(ImageReadError, match=r"no image at .*1\.png"):
        write_reference_sheet(results, found.images, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_many_of_a_class_are_cut_and_counted(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    found = read_references([f"{path}:apple@{x},5,20,20" for x in range(40)] * 2)
    write_reference_sheet(checked(found), found.images, tmp_path / "sheet.png", columns=10, side=20)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 10 + 26 + 6 * (20 + 43 + 10)
