from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.records import Annotation, Category, CocoDataset
from no_time_to_train.errors import ConfigError, UnknownNameError
from tests.data.coco_documents import document, write


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    return load_coco(write(document(), tmp_path))


def test_look_ups_by_id(dataset: CocoDataset) -> None:
    assert dataset.images_by_id[3].file_name == "b/c.jpg"
    assert dataset.annotations_by_id[12].image_id == 3
    assert dataset.categories_by_id[2] == Category(2, "dog")
    assert dataset.class_indices == {5: 0, 2: 1}
    assert [annotation.id for annotation in dataset.annotations_of(7)] == [11, 13]
    assert dataset.annotations_of(99) == ()
    assert dataset.images_by_id is dataset.images_by_id


def test_a_subset_has_the_order_of_the_names_and_all_images(dataset: CocoDataset) -> None:
    both = dataset.select(["dog", "cat"])
    assert both.class_names == ("dog", "cat")
    assert both.class_indices == {2: 0, 5: 1}
    cats = dataset.select(("cat",))
    assert [annotation.id for annotation in cats.annotations] == [11, 12, 13]
    assert cats.images == dataset.images
    assert cats.source == dataset.source


def test_an_unknown_class_names_the_nearest(dataset: CocoDataset) -> None:
    with pytest.raises(UnknownNameError, match=r"'dgo' \(did you mean dog\?\) \(its 2 categories are cat, dog\)"):
        dataset.select(["cat", "dgo"])


def test_names_given_twice_or_not_at_all_are_refused(dataset: CocoDataset) -> None:
    with pytest.raises(ConfigError, match="each class once, got cat twice"):
        dataset.select(["cat", "dog", "cat"])
    with pytest.raises(ConfigError, match="no class names were given"):
        dataset.select([])


def test_counts_in_bytes_are_written_as_text(dataset: CocoDataset) -> None:
    annotation = Annotation(1, 3, 5, (0, 0, 1, 1), 1.0, {"size": [4, 4], "counts": b"52203"})
    changed = CocoDataset(dataset.images, (annotation,), dataset.categories)
    assert changed.to_json()["annotations"][0]["segmentation"] == {"size": [4, 4], "counts": "52203"}
    assert annotation.segmentation == {"size": [4, 4], "counts": b"52203"}


def test_records_are_frozen_and_hashable(dataset: CocoDataset) -> None:
    annotation = dataset.annotations[0]
    assert len({annotation, dataset.annotations[1], annotation}) == 2
    with pytest.raises(FrozenInstanceError):
        annotation.id = 5  # type: ignore[misc] # it is frozen
