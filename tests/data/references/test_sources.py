"""Each form gives the same records; a folder whose form is not clear is refused with what it holds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.datasets import ReferenceDataset
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import (
    LabeledImages,
    negative_references,
    read_references,
    reference_set,
    write_references,
)
from no_time_to_train.errors import AnnotationError, ConfigError, DataNotFoundError, EmptyClassError
from tests.data.references import forms


def shown(found: LabeledImages) -> dict[str, tuple[tuple[float, ...], bool]]:
    """Return the box of each class's one annotation, and whether it has a mask."""
    names = found.dataset.categories_by_id
    return {
        names[a.category_id].name: (tuple(round(side, 2) for side in a.bbox), a.segmentation is not None)
        for a in found.dataset.annotations
    }


EACH: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "coco": (forms.coco, ["apple", "pear"]),
    "labelme": (forms.labelme, ["apple", "pear"]),
    "yolo": (forms.yolo, ["pear", "apple"]),
    "voc": (lambda root: forms.voc(root, masks=True), ["apple", "pear"]),
    "cvat": (forms.cvat, ["pear", "apple"]),
    "by class": (forms.by_class, ["apple", "pear"]),
}


@pytest.mark.parametrize("form", EACH)
def test_each_form_gives_the_same_records(tmp_path: Path, form: str) -> None:
    write, order = EACH[form]
    found = read_references(write(tmp_path / "refs"))
    assert list(found.dataset.class_names) == order  # as declared, or as they first came
    assert shown(found) == {"apple": (forms.APPLE, True), "pear": (forms.PEAR, False)}
    references = reference_set(found.dataset)
    items = ReferenceDataset(references.references, found.images)
    assert [item.image.shape for item in (items[0], items[1])] == [(48, 64, 3)] * 2
    apple = next(a for a in found.dataset.annotations if a.segmentation is not None)
    assert np.array_equal(decode_mask(apple, 48, 64), forms.mask_of(forms.APPLE))
    assert found.files
    assert not any(annotation.negative for annotation in found.dataset.annotations)


@pytest.mark.parametrize("form", EACH)
def test_what_is_converted_is_read_back(tmp_path: Path, form: str) -> None:
    found = read_references(EACH[form][0](tmp_path / "refs"))
    path = tmp_path / "made" / "refs.json"
    write_references(found, path)
    again = read_references(path)
    assert again.dataset.annotations == found.dataset.annotations
    assert again.dataset.categories == found.dataset.categories
    assert load_coco(path).images[0].file_name.startswith("../refs/")
    assert ReferenceDataset(reference_set(again.dataset).references, again.images)[0].image.shape == (48, 64, 3)


def test_links_to_images_are_named_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "refs" / "apple").mkdir(parents=True)
    (tmp_path / "refs" / "apple" / "1.png").symlink_to(forms.picture(tmp_path / "elsewhere" / "7.png"))
    (tmp_path / "made" / "deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "made" / "deep")
    write_references(read_references(tmp_path / "refs"), tmp_path / "out" / "refs.json")
    again = read_references(tmp_path / "out" / "refs.json")
    assert [image.file_name for image in again.dataset.images] == ["../../refs/apple/1.png"]


def test_nothing_that_was_read_is_written_over(tmp_path: Path) -> None:
    root = forms.labelme(tmp_path)
    before = (root / "a.json").read_text()
    with pytest.raises(ConfigError, match=r"a\.json is one of the references' files"):
        write_references(read_references(root), root / "a.json")
    assert (root / "a.json").read_text() == before


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    typed = f"{tmp_path}/2/a.jpg:apple@30,20"
    sources: list[str | Path] = [forms.coco(tmp_path / "1"), forms.labelme(tmp_path / "2"), typed]
    found = read_references(sources)
    assert found.dataset.class_names == ("apple", "pear")
    assert [a.id for a in found.dataset.annotations] == [1, 2, 3, 4, 5]
    assert [image.file_name for image in found.dataset.images] == ["1/images/default/a.jpg", "2/a.jpg"]
    assert found.dataset.annotations[-1].image_id == found.dataset.annotations[-2].image_id
    assert found.dataset.annotations[-1].points == ((30.0, 20.0),)
    references = reference_set(found.dataset).references
    items = ReferenceDataset(references, found.images)
    assert all(items[index].image.shape == (48, 64, 3) for index in range(5))


def test_all_of_a_source_can_be_negative(tmp_path: Path) -> None:
    found = read_references(forms.by_class(tmp_path), negative=True)
    assert [reference.class_index for reference in negative_references(found.dataset, ["pear", "apple"])] == [1, 0]
    with pytest.raises(EmptyClassError, match="only negative references of apple, pear"):
        reference_set(found.dataset)


def test_a_folder_of_images_is_taken(tmp_path: Path) -> None:
    root = forms.labelme(tmp_path / "json", imagePath="..\\elsewhere\\a.jpg")
    (tmp_path / "photos").mkdir()
    (root / "a.jpg").rename(tmp_path / "photos" / "a.jpg")
    with pytest.raises(AnnotationError, match=r"a\.json names the image .* outside of .*--reference-images DIR"):
        read_references(root)
    found = read_references(root, tmp_path / "photos")
    assert (found.images, found.dataset.images[0].file_name) == (tmp_path / "photos", "a.jpg")


@pytest.mark.parametrize("form", ["coco", "labelme", "yolo", "voc", "cvat"])
def test_a_missing_image_is_named_with_its_file(tmp_path: Path, form: str) -> None:
    root = EACH[form][0](tmp_path / "refs")
    next(root.rglob("*.jpg")).unlink()
    with pytest.raises(DataNotFoundError, match=r"a\.jpg|a\.txt") as told:
        read_references(root)
    assert "--reference-images DIR" in str(told.value)


def test_single_files_are_taken(tmp_path: Path) -> None:
    apple: tuple[tuple[float, ...], bool] = (forms.APPLE, True)
    assert shown(read_references(forms.labelme(tmp_path / "1") / "a.json"))["apple"] == apple
    assert shown(read_references(forms.cvat(tmp_path / "2") / "annotations.xml"))["apple"] == apple
    assert shown(read_references(forms.voc(tmp_path / "3", masks=True) / "Annotations" / "a.xml"))["apple"] == apple


def test_folders_that_are_not_clear(tmp_path: Path) -> None:
    both = forms.labelme(forms.cvat(tmp_path / "both"))
    with pytest.raises(AnnotationError, match=r"several forms: CVAT for images \(annotations.xml\) and LabelMe \(a.js"):
        read_references(both)
    two = forms.coco(tmp_path / "two")
    forms.text(two / "b.json", (two / "annotations" / "instances_default.json").read_text())
    with pytest.raises(AnnotationError, match=r"2 files that could be .*annotations/instances_default\.json.*name one"):
        read_references(two)
    forms.text(forms.cvat(tmp_path / "tasks") / "other" / "annotations.xml", forms.cvat_document())
    with pytest.raises(AnnotationError, match=r"2 files that could be .* annotations\.xml, other/annotations\.xml"):
        read_references(tmp_path / "tasks")
    forms.text(forms.yolo(tmp_path / "yamls") / "other.yaml", "epochs: 3")
    with pytest.raises(AnnotationError, match=r"2 files that could be .* data\.yaml, other\.yaml"):
        read_references(tmp_path / "yamls")
    assert shown(read_references(tmp_path / "yamls" / "data.yaml"))["apple"] == (forms.APPLE, True)
    forms.picture(tmp_path / "loose" / "a.jpg")
    with pytest.raises(
        AnnotationError, match=r"loose holds 1 \.jpg, .*no known form \(put images into folders by clas"
    ):
        read_references(tmp_path / "loose")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"empty holds no files.*a COCO JSON, a folder by class"):
        read_references(tmp_path / "empty")


def test_labels_without_names_are_not_clear(tmp_path: Path) -> None:
    root = forms.yolo(tmp_path)
    (root / "data.yaml").unlink()
    with pytest.raises(AnnotationError, match=r"1 \.jpg.*1 \.txt.*no known form.*in data\.yaml or classes\.txt"):
        read_references(root)
    forms.picture(tmp_path / "other" / "images" / "a.jpg")
    with pytest.raises(AnnotationError, match=r"1 \.jpg.*no known form"):
        read_references(tmp_path / "other")


def test_a_note_of_another_tool_is_let_be(tmp_path: Path) -> None:
    root = forms.yolo(tmp_path)
    (root / "data.yaml").unlink()
    forms.text(root / "classes.txt", "pear\nplum\napple\n")
    forms.text(root / "notes.json", json.dumps({"categories": [], "info": {}}))  # of Label Studio
    assert shown(read_references(root))["apple"] == (forms.APPLE, True)


def test_nothing_annotated_is_told(tmp_path: Path) -> None:
    for root in (
        forms.labelme(tmp_path / "1", shapes=[]),
        forms.yolo(tmp_path / "2", ""),
        forms.cvat(tmp_path / "3", shapes=""),
    ):
        with pytest.raises(EmptyClassError, match=rf"{root}.* has no annotated object"):
            read_references(root)


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = forms.voc(tmp_path / "elsewhere")
    linked = tmp_path / "refs"
    linked.mkdir()
    for name in ("Annotations", "JPEGImages"):
        (linked / name).symlink_to(root / name)
    (root / "Annotations" / "back").symlink_to(linked)
    found = read_references(linked)
    assert [image.file_name for image in found.dataset.images] == ["JPEGImages/a.jpg"]
    assert len(found.dataset.annotations) == 2


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no references were given"):
        read_references([])
    with pytest.raises(DataNotFoundError, match=r"no references .*gone.*give a COCO JSON, a folder by class"):
        read_references(tmp_path / "gone")
    with pytest.raises(DataNotFoundError, match="there are no references"):
        read_references("x" * 5000)
    with pytest.raises(AnnotationError, match=r"is an image.*write a\.jpg:CLASS@x,y,width,height"):
        read_references(forms.picture(tmp_path / "a.jpg"))
    with pytest.raises(ConfigError, match="holds only ids"):
        read_references(tmp_path / "a.pkl")
    with pytest.raises(AnnotationError, match=r"broken\.json is not valid JSON"):
        read_references(forms.text(tmp_path / "broken.json", "{"))
    with pytest.raises(DataNotFoundError, match="no folder"):
        read_references(forms.labelme(tmp_path / "1"), tmp_path / "gone")
    with pytest.raises(AnnotationError, match=r"expected <annotation> .*got <svg>"):
        read_references(forms.text(tmp_path / "a.xml", "<svg/>"))
