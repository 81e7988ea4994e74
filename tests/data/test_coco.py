import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from no_time_to_train.data.coco import CocoDataset, decode_mask, load_coco, write_coco
from no_time_to_train.errors import AnnotationError, DataNotFoundError, NoTimeToTrainError
from tests.data.coco_documents import annotation, document, write

Document = dict[str, Any]


def test_records_are_those_of_the_file_in_its_order(tmp_path: Path) -> None:
    path = write(document(), tmp_path)
    dataset = load_coco(path)
    assert dataset.source == str(path)
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        (7, "a.jpg", 8, 6),
        (3, "b/c.jpg", 4, 4),
    ]
    assert [(c.id, c.name) for c in dataset.categories] == [(5, "cat"), (2, "dog")]
    assert [a.id for a in dataset.annotations] == [11, 10, 12, 13]
    first = dataset.annotations[0]
    assert (first.image_id, first.category_id, first.bbox, first.area) == (7, 5, (1.0, 1.0, 2.0, 2.0), 4.0)
    assert (first.iscrowd, first.negative) == (False, False)
    assert first.segmentation == [[1, 1, 5, 1, 5, 4, 1, 4]]


@pytest.mark.parametrize("more", [{"segmentation": []}, {"segmentation": None}, {}])
def test_no_segmentation_means_a_box_only(tmp_path: Path, more: dict[str, Any]) -> None:
    content = document()
    content["annotations"] = [annotation(20, 7, 5, **more)]
    assert load_coco(write(content, tmp_path)).annotations[0].segmentation is None


def test_without_area_that_of_the_box_is_taken(tmp_path: Path) -> None:
    content = document()
    del content["annotations"][0]["area"]
    content["annotations"][0]["bbox"] = [0, 0, 3, 2.5]
    assert load_coco(write(content, tmp_path)).annotations[0].area == 7.5


def test_whole_floats_are_integers(tmp_path: Path) -> None:
    content = document()
    content["images"][0].update(id=7.0, width=8.0)
    image = load_coco(write(content, tmp_path)).images[0]
    assert (repr(image.id), repr(image.width)) == ("7", "8")


def test_images_without_annotations_are_a_dataset(tmp_path: Path) -> None:
    content = document()
    del content["annotations"]
    assert load_coco(write(content, tmp_path)).annotations == ()


def test_lvis_loads(tmp_path: Path) -> None:
    content = document()
    for image in content["images"]:
        name = Path(image.pop("file_name")).name
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [2, 5], [5]
    for entry in content["annotations"]:
        del entry["iscrowd"]
    dataset = load_coco(write(content, tmp_path))
    assert [image.file_name for image in dataset.images] == ["train2017/a.jpg", "train2017/c.jpg"]
    assert dataset.images[0].neg_category_ids == (2, 5)
    assert dataset.images[0].not_exhaustive_category_ids == (5,)
    assert load_coco(write(dataset.to_json(), tmp_path)) == dataset


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0].update(negative=True, iscrowd=1)
    content["annotations"][3].update(bbox=[1, 2, 0, 0], reference_points=[[1, 2], [1.5, 2]])
    dataset = load_coco(write(content, tmp_path))
    target = tmp_path / "new" / "out.json"
    write_coco(dataset, target)
    again = load_coco(target)
    COCO(str(target)).info()
    assert (again.images, again.annotations, again.categories) == (
        *(dataset.images, dataset.annotations, dataset.categories),
    )
    assert again.annotations[0].negative
    assert again.annotations[0].iscrowd
    assert again.annotations[3].points == ((1.0, 2.0), (1.5, 2.0))
    assert [path.name for path in target.parent.iterdir()] == ["out.json"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"gone\.json does not exist \(check the path"):
        load_coco(tmp_path / "gone.json")
    with pytest.raises(DataNotFoundError, match="is a folder"):
        load_coco(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"images": [', b"\xff\xfe\x00\xff", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"a\.json is not valid JSON: .*correct it at this place"):
        load_coco(path)


def replaced(where: str, value: Any) -> Callable[[Document], None]:
    def edit(content: Document) -> None:
        key, index, field = where.split(".")
        content[key][int(index)][field] = value

    return edit


def without(where: str) -> Callable[[Document], None]:
    def edit(content: Document) -> None:
        key, *rest = where.split(".")
        if rest:
            del content[key][int(rest[0])][rest[1]]
        else:
            del content[key]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("images"), "the document: expected the list 'images'"),
        (without("categories"), "the document: expected the list 'categories'"),
        (lambda d: d.update(images={}), "images: expected a list, got an object with 0 keys"),
        (lambda d: d.update(annotations=None), "annotations: expected a list, got nothing"),
        (lambda d: d["images"].append(5), r"images\[2\]: expected an object, got 5"),
        (without("images.0.id"), r"images\[0\]: expected id as an integer, got nothing"),
        (replaced("images.1.id", "3"), r"images\[1\]: expected id as an integer, got '3'"),
        (replaced("images.1.id", True), r"images\[1\]: expected id as an integer, got True"),
        (replaced("images.1.id", 10**30), r"images\[1\]: expected id as an integer, got an integer of more than 20"),
        (replaced("images.1.id", 7), r"images\[1\]: id 7 is there twice"),
        (replaced("images.0.width", 0), r"images\[0\]: expected a size of at least 1x1 .*, got 0x6"),
        (replaced("images.0.width", 2**30), r"images\[0\]: expected a size .* less than 2\^31 pixels"),
        (without("images.0.file_name"), r"images\[0\]: expected file_name as text"),
        (replaced("images.0.file_name", ""), r"images\[0\]: expected file_name as text that is not empty"),
        (replaced("images.0.neg_category_ids", ["x"]), r"images\[0\]: expected neg_category_ids as a list of int"),
        (replaced("categories.0.name", None), r"categories\[0\]: expected name as text"),
        (replaced("categories.0.name", "c\ud800t"), r"categories\[0\]: expected name as text, got 'c\\ud800t', which"),
        (replaced("categories.1.id", 5), r"categories\[1\]: id 5 is there twice"),
        (replaced("categories.1.name", "cat"), r"categories\[1\]: name 'cat' is there twice"),
        (replaced("annotations.1.id", 11), r"annotations\[1\]: id 11 is there twice"),
        (replaced("annotations.1.image_id", 99), r"annotations\[1\]: image_id 99 is not among the images"),
        (replaced("annotations.2.category_id", 99), r"annotations\[2\]: category_id 99 is not among the categories"),
        (without("annotations.0.bbox"), r"annotations\[0\]: expected bbox \[x, y, width, height\], got nothing"),
        (replaced("annotations.0.bbox", [1, 2, 3]), r"annotations\[0\]: expected bbox .*, got \[1, 2, 3\]"),
        (replaced("annotations.0.bbox", [1, 2, 3, "4"]), r"annotations\[0\]: expected finite numbers in bbox, got '4'"),
        (replaced("annotations.0.bbox", [1, 2, 3, 1e999]), "is not valid JSON: Infinity is not a JSON number: line 1"),
        (
            replaced("annotations.0.bbox", [1, float("nan"), 3, 4]),
            "is not valid JSON: NaN is not a JSON number: line 1",
        ),
        (replaced("annotations.0.bbox", [10**400, 2, 3, 4]), r"expected finite numbers in bbox, got an integer of mo"),
        (replaced("annotations.0.bbox", [1, 2, -3, 4]), r"expected a bbox of no negative width or height"),
        (replaced("annotations.0.area", "big"), r"annotations\[0\]: expected finite numbers in area, got 'big'"),
        (replaced("annotations.0.iscrowd", 2), r"annotations\[0\]: expected iscrowd as 0 or 1, got 2"),
        (replaced("annotations.0.reference_points", [1, 2]), r"expected reference_points as a list of \[x, y\], got"),
        (replaced("annotations.0.reference_points", [[1, None]]), r"expected finite numbers in reference_points"),
        (replaced("annotations.0.segmentation", "x"), r"annotations\[0\]: expected segmentation as polygons or RLE"),
    ],
)
def test_what_is_wrong_and_where_is_said(tmp_path: Path, edit: Callable[[Document], None], message: str) -> None:
    content = document()
    edit(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load_coco(write(content, tmp_path))
    assert str(tmp_path / "coco.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "cat"', '"name": "cat", "name": "dog"', "key 'name' is there twice .* with 'cat' and 'dog'"),
        ('"id": 7, ', '"id": 7, "id": 3, ', "the key 'id' is there twice in one object, with 7 and 3"),
        ('"area": 4', '"area": 1e999', r"annotations\[0\]: expected finite numbers in area, got inf"),
        ('"images"', '"images": [], "images"', "the key 'images' is there twice in one object, with a list and a list"),
    ],
)
def test_nothing_is_guessed_from_odd_json(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(document(), tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(AnnotationError, match=message):
        load_coco(path)


def places(node: Any) -> list[tuple[str | int, ...]]:
    """Return the path to each value in a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [(), *((key, *rest) for key, child in children for rest in places(child))]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_document_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    content: Any = document()
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([place for place in places(content) if place] or [("x",)]))
        node = content
        for key in parents:
            node = node[key]
        if data.draw(st.booleans()) and node:
            node.pop(last)
        else:
            node[last] = copy.deepcopy(data.draw(ANY_JSON))
    path = tmp_path / "fuzzed.json"
    path.write_text(json.dumps(content))
    try:
        dataset = load_coco(path)
    except NoTimeToTrainError:
        return
    assert load_coco(write(dataset.to_json(), tmp_path, "again.json")).annotations == dataset.annotations
    decode_all(dataset)


def decode_all(dataset: CocoDataset) -> None:
    for entry in dataset.annotations:
        image = dataset.images_by_id[entry.image_id]
        if image.width * image.height > 10_000:
            continue
        try:
            mask = decode_mask(entry, image.height, image.width)
        except NoTimeToTrainError:
            continue
        assert mask.shape == (image.height, image.width)


def test_neither_torch_nor_jax_is_imported() -> None:
    code = "import sys, no_time_to_train.data.references as r; print(*sorted({'torch', 'jax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_scores_of_what_was_found_are_kept(tmp_path: Path) -> None:
    found = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "score": 0.75}
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [found, found | {"id": 2, "score": None}],
    }
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(whole))
    dataset = load_coco(path)
    assert [annotation.score for annotation in dataset.annotations] == [0.75, None]
    write_coco(dataset, tmp_path / "again.json")
    assert load_coco(tmp_path / "again.json").annotations == dataset.annotations
    path.write_text(json.dumps(whole | {"annotations": [found | {"score": "high"}]}))
    with pytest.raises(AnnotationError, match="score"):
        load_coco(path)
