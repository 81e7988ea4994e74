import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from no_time_to_train.cli.data import sample_references_command
from no_time_to_train.configs.splits import resolve_split
from no_time_to_train.data.coco import CocoDataset, encode_mask, load_coco
from no_time_to_train.data.references import load_references
from no_time_to_train.data.sampling import sample_references
from no_time_to_train.errors import (
    ConfigError,
    DataNotFoundError,
    NotEnoughReferencesError,
    OutputError,
    UnknownNameError,
)
from tests.data.coco_documents import annotation, write


def content(classes: dict[str, list[int]], **more: Any) -> dict[str, Any]:
    """A document whose classes have a good annotation in each of the images listed."""
    entries = [
        annotation(100 * class_id + index, image_id, class_id, **{"bbox": [2, 2, 10, 10], **more})
        for class_id, image_ids in enumerate(classes.values(), start=1)
        for index, image_id in enumerate(image_ids)
    ]
    image_ids = sorted({entry["image_id"] for entry in entries})
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in image_ids],
        "annotations": entries,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }


def many() -> dict[str, Any]:
    return content({"cat": list(range(1, 40)), "dog": list(range(20, 60)), "cow": [5, 6, 7, 8, 9] * 3})


def images_of(dataset: CocoDataset) -> dict[str, list[int]]:
    names = {category.id: category.name for category in dataset.categories}
    chosen: dict[str, list[int]] = {name: [] for name in names.values()}
    for entry in dataset.annotations:
        chosen[names[entry.category_id]].append(entry.image_id)
    return chosen


def test_each_class_gets_its_shots_in_images_of_its_own(tmp_path: Path) -> None:
    sampled = sample_references(write(many(), tmp_path), shots=4)
    chosen = images_of(sampled)
    assert {name: len(set(image_ids)) for name, image_ids in chosen.items()} == {"cat": 4, "dog": 4, "cow": 4}
    assert max(Counter(image_id for image_ids in chosen.values() for image_id in image_ids).values()) == 1
    assert {image.id for image in sampled.images} == {entry.image_id for entry in sampled.annotations}


def test_the_seed_decides_and_the_order_of_the_file_does_not(tmp_path: Path) -> None:
    document = many()
    first = sample_references(write(document, tmp_path), shots=3, seed=5)
    for key in ("images", "annotations", "categories"):
        random.Random(1).shuffle(document[key])
    assert sample_references(write(document, tmp_path), shots=3, seed=5) == first
    assert sample_references(write(document, tmp_path), shots=3, seed=6) != first


def test_the_choice_is_the_same_on_every_machine(tmp_path: Path) -> None:
    # Recorded once: who changes the sampling changes everybody's references and should know it.
    sampled = sample_references(write(many(), tmp_path), shots=2, seed=0)
    assert images_of(sampled) == {"cat": [23, 33], "dog": [41, 53], "cow": [7, 9]}


def bad(**changes: Any) -> dict[str, Any]:
    return annotation(9, 2, 1, **{"bbox": [2, 2, 10, 10], **changes})


SMALL = np.zeros((30, 40), bool)
SMALL[3, 3:6] = True  # 3 of 1200 pixels are 0.25 %.


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": 1},
        {"negative": True},
        {"bbox": [2, 2, 0, 10]},
        {"bbox": [2, 2, 0.5, 30]},
        {"bbox": [2, 2, 1.5, 2]},
        {"bbox": [-3, 2, 10, 10]},
        {"bbox": [2, 22, 10, 10]},
        {"bbox": [35, 2, 10, 10]},
        {"segmentation": [[1, 1, 2, 2]]},
        {"segmentation": {"size": [30, 40], "counts": [3]}},
        {"segmentation": encode_mask(np.ones((40, 30), bool))},
        {"segmentation": encode_mask(np.zeros((30, 40), bool))},
        {"segmentation": encode_mask(SMALL)},
    ],
)
def test_what_is_no_good_reference_is_not_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    document = content({"cat": [1, 2]})
    document["annotations"] = [annotation(8, 1, 1, bbox=[2, 2, 10, 10]), bad(**changes)]
    path = write(document, tmp_path)
    with pytest.raises(NotEnoughReferencesError, match=r"than the 2 asked for: cat \(1\)"):
        sample_references(path, shots=2)
    document["annotations"].append(annotation(10, 2, 1, bbox=[29.5, 19.5, 11, 11]))  # In the same image, and good.
    assert [entry.id for entry in sample_references(write(document, tmp_path), shots=2).annotations] == [8, 10]


def test_the_least_area_can_be_set(tmp_path: Path) -> None:
    document = content({"cat": [1]}, segmentation=encode_mask(SMALL))
    path = write(document, tmp_path)
    assert len(sample_references(path, shots=1, min_area=0.002).annotations) == 1
    with pytest.raises(NotEnoughReferencesError):
        sample_references(path, shots=1, min_area=0.004)


@pytest.mark.parametrize("seed", range(12))
def test_images_are_shared_only_where_they_must(tmp_path: Path, seed: int) -> None:
    # Whoever takes any image that is free can leave the last class of a ring with none of its own.
    ring = {name: [number, number % 5 + 1] for number, name in enumerate("abcde", start=1)}
    assert len(sample_references(write(content(ring), tmp_path), shots=1, seed=seed).images) == 5
    tight = {"a": [1, 2, 3, 4], "b": [3, 4, 5, 6], "c": [5, 6, 1, 2]}
    assert len(sample_references(write(content(tight), tmp_path), shots=2, seed=seed).images) == 6
    shared = sample_references(write(content({"a": [1, 2, 3], "b": [1, 2, 3]}), tmp_path), shots=2, seed=seed)
    assert [len(set(image_ids)) for image_ids in images_of(shared).values()] == [2, 2]
    assert len(shared.images) == 3


def test_too_few_are_named_with_their_numbers(tmp_path: Path) -> None:
    path = write(content({"cat": [1, 2, 3], "dog": [1], "cow": [1, 1]}), tmp_path)
    with pytest.raises(NotEnoughReferencesError, match=r"2 classes of .*: dog \(1\), cow \(1\) \(ask for fewer shots"):
        sample_references(path, shots=2)
    sampled = sample_references(path, shots=2, allow_fewer=True)
    assert {name: len(image_ids) for name, image_ids in images_of(sampled).items()} == {"cat": 2, "dog": 1, "cow": 1}


def test_none_at_all_is_never_allowed(tmp_path: Path) -> None:
    path = write(content({"cat": [1, 2], "unicorn": []}), tmp_path)
    with pytest.raises(NotEnoughReferencesError, match=r"unicorn \(0\) \(leave out the classes that have none"):
        sample_references(path, shots=2, allow_fewer=True)


def test_classes_have_the_order_that_was_asked_for(tmp_path: Path) -> None:
    dataset = load_coco(write(many(), tmp_path))
    assert sample_references(dataset, shots=1, class_names=["cow", "cat"]).class_names == ("cow", "cat")
    reordered = CocoDataset(dataset.images, dataset.annotations, dataset.categories[::-1])
    assert sample_references(reordered, shots=1).class_names == ("cat", "dog", "cow")


def test_a_split_names_the_classes(tmp_path: Path) -> None:
    split = resolve_split("voc_novel_split1")
    path = write(content({name: [1, 2] for name in [*reversed(split), "person"]}), tmp_path)
    assert sample_references(path, shots=2, split="voc_novel_split1").class_names == split
    with pytest.raises(UnknownNameError, match="did you mean"):
        sample_references(path, shots=2, split="coco20i_fold0")
    with pytest.raises(UnknownNameError, match="no split is called 'voc'"):
        sample_references(path, shots=2, split="voc")
    with pytest.raises(ConfigError, match="give one of the two"):
        sample_references(path, shots=2, split="coco80", class_names=["bird"])


@pytest.mark.parametrize("settings", [{"shots": 0}, {"shots": 1, "min_area": 1.0}, {"shots": 1, "min_area": -0.1}])
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1 shot and a min_area from 0"):
        sample_references(write(many(), tmp_path), **settings)


def test_the_command_writes_a_reference_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "refs.json"
    sample_references_command(annotations=write(many(), tmp_path), shots=3, output=output, seed=1)
    assert capsys.readouterr().out == f"{output}: 9 references of 3 classes in 9 images\n"
    references = load_references(output)
    assert references.class_names == ("cat", "dog", "cow")
    assert Counter(reference.class_index for reference in references.references) == {0: 3, 1: 3, 2: 3}


def test_the_command_writes_nothing_when_it_fails(tmp_path: Path) -> None:
    source, output = write(many(), tmp_path), tmp_path / "refs.json"
    with pytest.raises(NotEnoughReferencesError):
        sample_references_command(annotations=source, shots=99, output=output)
    with pytest.raises(DataNotFoundError):
        sample_references_command(annotations=tmp_path / "gone.json", shots=1, output=output)
    with pytest.raises(OutputError):
        sample_references_command(annotations=source, shots=1, output=source / "refs.json")
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
