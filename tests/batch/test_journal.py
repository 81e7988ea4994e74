"""Where a run goes on: what it trusts of an earlier run's files, and what it makes again."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.journal import Journal
from no_time_to_train.data.masks import encode_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.io.file_stamps import FileStamp

CLASSES = ("disc", "square")
SIZE = (4, 6)


@pytest.fixture
def image(tmp_path: Path) -> InputImage:
    path = tmp_path / "a.png"
    Image.new("RGB", SIZE[::-1], (10, 200, 30)).save(path)
    return InputImage(path, "a.png")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "instances", "a run", CLASSES, 0.3)


def instance() -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[1:3, 2:5] = True
    return {
        "category": "square",
        "area": 6,
        "category_id": 2,
        "bbox": [2.0, 1.0, 3.0, 2.0],
        "score": 0.75,
        "segmentation": encode_mask(mask),
    }


def candidates(far_pixel: int = 1) -> Prediction:
    """Return a square, and a disc of a score that is below the least one."""
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[:, 1:3, 2:5] = True
    boxes = np.array([[2, 1, 4, 2]] * 2, dtype=np.float32)
    scores = np.array([0.75, 0.125], dtype=np.float32)
    return Prediction(masks, boxes, scores, np.array([1, 0]), CLASSES, SIZE, far_pixel)


def stamp_of(image: InputImage) -> FileStamp:
    with image.path.open("rb") as stream:
        return FileStamp.of(stream)


@pytest.fixture
def written(journal: Journal, image: InputImage) -> dict[str, Any]:
    return journal.write(image, candidates(), stamp_of(image))


def rle(rows: int = 4, columns: int = 6, **changes: Any) -> dict[str, Any]:
    mask = np.zeros((rows, columns), dtype=bool)
    mask[1:3, 2:5] = True
    return encode_mask(mask) | changes


def test_an_entry_has_what_is_above_the_least_score_and_the_best_of_the_rest(written: dict[str, Any]) -> None:
    assert written["instances"] == [instance()]
    assert written["best_scores"] == {"disc": 0.125, "square": 0.75}


def test_entries_of_the_published_protocol_come_back(journal: Journal, image: InputImage) -> None:
    written = journal.write(image, candidates(far_pixel=0), stamp_of(image))
    assert written["instances"][0]["bbox"] == [2, 1, 2, 1]
    assert journal.read(image) == written


def test_an_entry_comes_back(journal: Journal, image: InputImage, written: dict[str, Any]) -> None:
    assert journal.read(image) == written
    assert Journal(journal.folder, "another run", CLASSES, 0.3).read(image) is None
    assert journal.read(InputImage(image.path, "b.png")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "b.png"},
        {"file_name": 5},
        {"height": 5},
        {"height": 6, "width": 4},
        {"height": 4.0},
        {"height": True},
        {"stamp": None},
        {"stamp": [163, 17]},
        {"instances": None},
        {"instances": {}},
        {"instances": [5]},
        {"best_scores": None},
        {"best_scores": {"ring": 0.7}},
        {"best_scores": {"square": 0.6}},
        {"best_scores": {"square": float("nan")}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_wrong_entry_does_not_count(
    change: dict[str, Any], journal: Journal, image: InputImage, written: dict[str, Any]
) -> None:
    journal.path(image).write_text(json.dumps(written | change))
    assert journal.read(image) is None
    for key in change:
        if key in written:
            journal.path(image).write_text(json.dumps({name: written[name] for name in written if name != key}))
            assert journal.read(image) is None


@pytest.mark.parametrize(
    "change",
    [
        {"category": "ring"},
        {"category": ["square"]},
        {"category": "disc"},
        {"category_id": 1},
        {"category_id": 2.0},
        {"score": 77.0},
        {"score": 0.29},
        {"score": 1},
        {"score": "0.7"},
        {"score": float("nan")},
        {"score": float("inf")},
        {"bbox": None},
        {"bbox": [2.0, 1.0, 3.0]},
        {"bbox": [2, 1, 3, 2]},
        {"bbox": [2.0, 1.0, 3.0, 3.0]},
        {"bbox": [2.0, 1.0, 3.0, float("nan")]},
        {"area": 7},
        {"area": 6.0},
        {"segmentation": None},
        {"segmentation": [[2, 1, 5, 1, 5, 3]]},
        {"segmentation": rle(6, 4)},
        {"segmentation": rle(5, 6)},
        {"segmentation": rle(counts="ab")},
        {"segmentation": rle(counts="é")},
        {"segmentation": rle(counts=[9, 2, 2, 2, 2, 2, 5])},
        {"segmentation": rle(more=1)},
        {"segmentation": {"size": [4, 6]}},
        {"iscrowd": 1},
    ],
    ids=str,
)
def test_a_wrong_instance_does_not_count(
    change: dict[str, Any], journal: Journal, image: InputImage, written: dict[str, Any]
) -> None:
    for instances in ([instance() | change], [instance(), instance() | change]):
        journal.path(image).write_text(json.dumps(written | {"instances": instances}))
        assert journal.read(image) is None
    for key in change.keys() & instance().keys():
        without = {name: value for name, value in instance().items() if name != key}
        journal.path(image).write_text(json.dumps(written | {"instances": [without]}))
        assert journal.read(image) is None


def test_a_score_that_float32_rounds_below_the_least_counts(image: InputImage, journal: Journal) -> None:
    """The least score is compared in float32, in which 0.7 is a little less."""
    score = float(np.float32(0.7))
    assert score < 0.7
    at_least = Journal(journal.folder, "a run", CLASSES, 0.7)
    entry = at_least.write(image, replace(candidates(), scores=np.array([0.7, 0.125], np.float32)), stamp_of(image))
    assert [found["score"] for found in entry["instances"]] == [score]
    assert at_least.read(image) == entry


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("spoil", [fifo, folder, endless, deep])
def test_what_is_no_entry_does_not_count_and_is_not_waited_for(
    spoil: Callable[[Path], None], journal: Journal, image: InputImage, written: dict[str, Any]
) -> None:
    assert written["file_name"] == "a.png"
    spoil(journal.path(image))
    assert journal.read(image) is None


def test_an_image_with_the_same_size_and_time_is_another_one(
    journal: Journal, image: InputImage, written: dict[str, Any], tmp_path: Path
) -> None:
    times, length = image.path.stat(), image.path.stat().st_size
    shutil.copy(image.path, tmp_path / "kept.png")
    Image.new("RGB", SIZE[::-1], (11, 201, 31)).save(image.path)
    assert image.path.stat().st_size == length
    os.utime(image.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert journal.read(image) is None
    # The first one again, with another time: it is looked into, and the entry counts.
    shutil.copy(tmp_path / "kept.png", image.path)
    assert journal.read(image) == written
    image.path.unlink()
    assert journal.read(image) is None
