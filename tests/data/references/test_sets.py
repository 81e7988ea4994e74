import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from no_time_to_train.data.references import ReferenceSet, load_negative_references, load_references
from no_time_to_train.errors import (
    AnnotationError,
    ConfigError,
    DataNotFoundError,
    EmptyClassError,
    EmptyMaskError,
    UnknownNameError,
)
from tests.data.coco_documents import annotation, document, write


def pickled(content: Any, folder: Path, name: str = "refs.pkl") -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(content))
    return path


def ids(references: ReferenceSet) -> list[tuple[int, int]]:
    return [(reference.class_index, reference.annotation.id) for reference in references.references]


def test_json_references_are_grouped_by_class(tmp_path: Path) -> None:
    references = load_references(write(document(), tmp_path))
    assert (references.class_names, references.category_ids) == (("cat", "dog"), (5, 2))
    assert ids(references) == [(0, 11), (0, 12), (0, 13), (1, 10)]
    assert [reference.image.file_name for reference in references.references] == [
        "a.jpg",
        "b/c.jpg",
        "a.jpg",
        "b/c.jpg",
    ]
    assert references.references[2].annotation.segmentation is None
    assert not any(reference.negative for reference in references.references)


def test_class_names_choose_and_order(tmp_path: Path) -> None:
    path = write(document(), tmp_path)
    both = load_references(path, class_names=["dog", "cat"])
    assert (both.class_names, both.category_ids) == (("dog", "cat"), (2, 5))
    assert ids(both) == [(0, 10), (1, 11), (1, 12), (1, 13)]
    assert ids(load_references(path, class_names=["dog"])) == [(0, 10)]
    with pytest.raises(UnknownNameError, match=r"'dogs' \(did you mean dog\?\)"):
        load_references(path, class_names=["dogs"])


def test_classes_without_a_reference_are_named(tmp_path: Path) -> None:
    content = document()
    content["categories"] += [{"id": 8, "name": "cow"}, {"id": 9, "name": "sheep"}]
    path = write(content, tmp_path)
    with pytest.raises(EmptyClassError, match=r"no reference for 2 of its 4 classes: cow, sheep \(add a reference"):
        load_references(path)
    with pytest.raises(EmptyClassError, match="1 of its 2 classes: cow"):
        load_references(path, class_names=["cow", "dog"])
    assert load_references(path, class_names=["dog"]).class_names == ("dog",)


def test_crowds_alone_are_told_as_such(tmp_path: Path) -> None:
    content = document()
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    crowds = rf"cat, dog; {len(content['annotations'])} annotations are crowds.*set iscrowd to 0"
    with pytest.raises(EmptyClassError, match=crowds):
        load_references(write(content, tmp_path))


def test_a_file_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyClassError, match="no reference"):
        load_references(write({"images": [], "annotations": [], "categories": []}, tmp_path))


def test_crowds_are_left_out_and_negatives_are_marked(tmp_path: Path) -> None:
    content = document()
    content["annotations"] += [annotation(14, 7, 2, iscrowd=1), annotation(15, 7, 2, negative=True)]
    references = load_references(write(content, tmp_path))
    assert ids(references) == [(0, 11), (0, 12), (0, 13), (1, 10), (1, 15)]
    assert [reference.negative for reference in references.references] == [False] * 4 + [True]
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] != 10]
    with pytest.raises(EmptyClassError, match="dog"):
        load_references(write(content, tmp_path))


SHAPES = {
    "dicts": {5: [{"img_id": 7, "ann_ids": [11]}, {"img_id": 3, "ann_ids": [12]}], 2: [{"img_id": 3, "ann_ids": [10]}]},
    "tuples": {5: [(7, [11]), (3, (12,))], 2: [[3, [10]]]},
    "mappings": {5: {7: [11], 3: [12]}, 2: {3: [10]}},
    "ordered": collections.OrderedDict({2: [{"img_id": 3, "ann_ids": [10]}], 5: {7: [11], 3: [12]}}),
    "numpy": {np.int64(5): {np.int32(7): [np.uint8(11)], 3: [12]}, 2: {3: [10]}},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["refs.pkl", "refs.PICKLE"])
def test_pickles_of_every_shape_give_the_same_references(tmp_path: Path, shape: str, name: str) -> None:
    references = load_references(pickled(SHAPES[shape], tmp_path, name), annotations=write(document(), tmp_path))
    assert (references.class_names, references.category_ids) == (("cat", "dog"), (5, 2))
    assert ids(references) == [(0, 11), (0, 12), (1, 10)]


def test_a_sample_of_the_original_is_one_reference_its_first_annotation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What coco_to_pkl.py writes for an image with two annotations of a class.
    sample = {"img_id": 7, "ann_ids": [13, 11]}
    for samples in ([sample, dict(sample)], [(7, [13, 11]), (7, [13, 11])]):
        references = load_references(pickled({5: samples}, tmp_path), annotations=write(document(), tmp_path))
        assert references.class_names == ("cat",)
        assert ids(references) == [(0, 13), (0, 13)]
        assert "2 others are not used" in caplog.text
        caplog.clear()


def test_several_annotations_of_an_image_are_several_references(tmp_path: Path) -> None:
    path = pickled({5: {7: [13, 11]}}, tmp_path)
    assert ids(load_references(path, annotations=write(document(), tmp_path))) == [(0, 13), (0, 11)]


def test_class_names_choose_from_a_pickle(tmp_path: Path) -> None:
    path, source = pickled(SHAPES["dicts"], tmp_path), write(document(), tmp_path)
    assert ids(load_references(path, annotations=source, class_names=["dog"])) == [(0, 10)]
    with pytest.raises(EmptyClassError, match="2 classes: cat"):
        load_references(pickled({2: {3: [10]}}, tmp_path), annotations=source, class_names=["dog", "cat"])
    with pytest.raises(EmptyClassError, match="2 classes: cat"):
        load_references(pickled({2: {3: [10]}, 5: {7: []}}, tmp_path), annotations=source)


def test_a_pickle_needs_annotations_and_json_has_its_own(tmp_path: Path) -> None:
    source = write(document(), tmp_path)
    with pytest.raises(ConfigError, match=r"holds only ids.*give the COCO JSON file"):
        load_references(pickled(SHAPES["dicts"], tmp_path))
    with pytest.raises(ConfigError, match="holds its own annotations"):
        load_references(source, annotations=source)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"gone\.pkl"):
        load_references(tmp_path / "gone.pkl", annotations=write(document(), tmp_path))
    with pytest.raises(DataNotFoundError, match=r"gone\.json"):
        load_references(tmp_path / "gone.json")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['NTT_PROOF']}",)


def test_a_malicious_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTT_PROOF", str(tmp_path / "ran"))
    path = pickled({5: [{"img_id": Malicious(), "ann_ids": [11]}]}, tmp_path)
    with pytest.raises(AnnotationError, match=r"asks for (posix|nt)\.system"):
        load_references(path, annotations=write(document(), tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the pickle: expected a dict of category ids"),
        ({}, "the pickle: expected a dict of category ids"),
        ({"cat": []}, "class 'cat': expected a category id"),
        ({True: []}, "class True: expected a category id"),
        ({5: 7}, "class 5: expected a list or dict of images"),
        ({5: [7]}, "class 5: expected images as"),
        ({5: [{"img_id": 7}]}, "class 5: expected images as"),
        ({5: [(7, [11], 1)]}, "class 5: expected images as"),
        ({5: [(7, 11)]}, "class 5: expected a list of annotation ids"),
        ({5: [("7", [11])]}, "class 5: expected image and annotation ids that are integers"),
        ({5: [(7, [11.0])]}, "class 5: expected image and annotation ids that are integers"),
        ({6: [(7, [11])]}, "names category 6, which .* does not have"),
        ({5: [(7, [99])]}, "names annotation 99 of category 5 in image 7; in .* it is not there"),
        ({2: [(7, [11])]}, "annotation 11 of category 2 in image 7; in .* it is of category 5 in image 7"),
        ({5: [(3, [11])]}, "annotation 11 of category 5 in image 3; in .* it is of category 5 in image 7"),
    ],
)
def test_malformed_pickles_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        load_references(pickled(content, tmp_path), annotations=write(document(), tmp_path))


def test_one_list_named_in_a_million_places_does_not_hang(tmp_path: Path) -> None:
    images = [{"img_id": 7, "ann_ids": [11] * 1000}] * 1000
    path = pickled(dict.fromkeys(range(1000), images), tmp_path)
    assert path.stat().st_size < 100_000
    with pytest.raises(AnnotationError, match="at most 1000000 references"):
        load_references(path, annotations=write(document(), tmp_path))


def boxed(folder: Path, box: list[float], mask: bool) -> Path:
    """Write references of which the first, in an image of 8x6 pixels, has that box, with its mask or without."""
    content = document()
    content["annotations"][0]["bbox"] = box
    if not mask:
        del content["annotations"][0]["segmentation"]
    return write(content, folder)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([1, 1, 2.5, 2], (1, 1, 2.5, 2)),
        ([0, 0, 8, 6], (0, 0, 8, 6)),
        ([-0.5, -1, 8.5, 7.5], (0, 0, 8, 6)),
        ([7, 4, 2, 3], (7, 4, 1, 2)),
        ([-2, 1, 4, 2], (0, 1, 2, 2)),
    ],
)
def test_boxes_are_clipped_by_what_tools_round(
    box: list[float], clipped: tuple[float, ...], mask: bool, tmp_path: Path
) -> None:
    path = boxed(tmp_path, box, mask)
    assert load_references(path).references[0].annotation.bbox == clipped
    assert load_negative_references(path, ["cat"])[0].annotation.bbox == clipped


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    ("box", "beyond"),
    [
        ([-2.5, 1, 5, 2], "2.5"),
        ([1, -40, 2, 42], "40"),
        ([1, 1, 2, 9], "4"),
        ([0, 0, 80, 60], "72"),
        ([5, 1, 6, 2], "3"),
    ],
)
def test_boxes_that_end_outside_are_refused(box: list[float], beyond: str, mask: bool, tmp_path: Path) -> None:
    path = boxed(tmp_path, box, mask)
    for read in (load_references, lambda path: load_negative_references(path, ["cat"])):
        with pytest.raises(AnnotationError, match=f"annotation 11 ends {beyond} pixels outside of a.jpg of 8x6"):
            read(path)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    "box", [[9, 1, 2, 2], [8, 1, 2, 2], [-5, 1, 2, 2], [1, 600, 2, 2], [0, 0, 0, 0], [-1, -1, 1, 1]]
)
def test_boxes_of_nothing_are_refused(box: list[float], mask: bool, tmp_path: Path) -> None:
    with pytest.raises(EmptyMaskError, match=r"annotation 11 in a.jpg has .* covers nothing of its image of 8x6"):
        load_references(boxed(tmp_path, box, mask))


def test_a_line_with_a_mask_is_a_place(tmp_path: Path) -> None:
    assert load_references(boxed(tmp_path, [3, 1, 0, 4], True)).references[0].annotation.bbox == (3, 1, 0, 4)
    with pytest.raises(EmptyMaskError, match="has no mask"):
        load_references(boxed(tmp_path, [3, 1, 0, 4], False))


@pytest.mark.parametrize(
    ("box", "mask"), [([0.1, 0.2, 0.5, 0.9], True), ([0, 0, 0.9, 0.2], False), ([0, 0, 1, 1], False)]
)
def test_boxes_of_relative_coordinates_are_refused(box: list[float], mask: bool, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"annotation 11 in a.jpg is of a pixel at most \(give .* in pixels"):
        load_references(boxed(tmp_path, box, mask))


def test_points_are_within_their_image(tmp_path: Path) -> None:
    content = document()
    content["annotations"][3] |= {"bbox": [7, 2, 0, 0], "reference_points": [[7.5, 2]]}
    points = load_references(write(content, tmp_path)).references[2].annotation.points
    assert points == ((7.5, 2.0),)
    content["annotations"][3]["reference_points"] = [[8, 2]]
    with pytest.raises(AnnotationError, match=r"the point \[8.0, 2.0\] of annotation 13 is outside of a\.jpg of 8x6"):
        load_references(write(content, tmp_path))
