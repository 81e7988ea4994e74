from pathlib import Path

import pytest

from no_time_to_train.data.references import read_references, reference_set
from no_time_to_train.errors import AnnotationError, DataNotFoundError
from tests.data.references.forms import picture


def test_a_box_and_a_point_are_typed(tmp_path: Path) -> None:
    path = picture(tmp_path / "odd:name@2.jpg")
    found = read_references([f"{path}:red apple@10,8,20,16.5", f"{path}:pear@30,40"])
    box, point = found.dataset.annotations
    assert (box.bbox, box.points) == ((10, 8, 20, 16.5), ())
    assert (point.bbox, point.points) == ((30, 40, 0, 0), ((30, 40),))
    assert found.dataset.class_names == ("red apple", "pear")
    assert len(found.dataset.images) == 1
    assert len(reference_set(found.dataset).references) == 2


def test_images_are_found_in_their_folder(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    assert read_references("a.jpg:apple@1,2,30,40", tmp_path).dataset.class_names == ("apple",)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ("1,2,3", "expected 2 or 4 numbers, got 3"),
        ("1,x", "expected coordinates as a number, got 'x'"),
        ("1,nan", "expected coordinates as a number"),
        ("", "expected coordinates as a number, got ''"),
        ("64,2", r"expected points within a.jpg of 64x48 pixels, got \[\(64"),
        ("10,10,0,5", "expected a box of finite numbers with a width and a height above 0"),
        ("10,10,1e9,5", "ends 1e[+]09 pixels outside of a.jpg"),
    ],
)
def test_numbers_that_are_wrong(tmp_path: Path, numbers: str, says: str) -> None:
    with pytest.raises(AnnotationError, match=says):
        read_references(f"{picture(tmp_path / 'a.jpg')}:apple@{numbers}")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no image gone\.jpg"):
        read_references("gone.jpg:apple@1,2")
    with pytest.raises(AnnotationError, match="expected the name of a class, got ' '"):
        read_references(f"{picture(tmp_path / 'a.jpg')}: @1,2")
