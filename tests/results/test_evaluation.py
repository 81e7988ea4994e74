import contextlib
import copy
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from no_time_to_train.data.coco import Annotation, Category, CocoDataset, ImageRecord
from no_time_to_train.data.masks import decode_mask, encode_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.errors import AnnotationError
from no_time_to_train.matching import Instances
from no_time_to_train.results.evaluation import (
    METRICS,
    ap_table,
    coco_results,
    comparison_table,
    evaluate,
    reports_as_json,
)

SIZE = 120


def rectangle(x: int, y: int, width: int, height: int) -> Any:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def blob(kind: int, x: int, y: int, radius: int) -> Any:
    """Draw a square, a disc, or a thin cross, of which the box is much larger than the mask."""
    rows, columns = (abs(axis - centre) for axis, centre in zip(np.mgrid[:SIZE, :SIZE], (y, x), strict=True))
    if kind == 0:
        return np.maximum(rows, columns) <= radius
    return (
        rows**2 + columns**2 <= radius**2
        if kind == 1
        else (np.maximum(rows, columns) <= radius) & (rows * columns == 0)
    )


def random_case(seed: int, *, crowds: bool = True, tied: bool = False) -> tuple[CocoDataset, list[dict[str, Any]]]:
    """Make annotations of three classes, and results that lie near them, beside them, and nowhere near.

    Areas are of all three of COCO's ranges, some masks are polygons, one image has more results than count, the last
    two have no annotations.
    """
    rng = np.random.default_rng(seed)
    categories = tuple(Category(id, f"class {id}") for id in (2, 5, 9))
    images = tuple(ImageRecord(id, f"{id}.jpg", SIZE, SIZE) for id in range(1, 9))
    annotations: list[Annotation] = []
    results: list[dict[str, Any]] = []
    for image in images[:-2]:
        for _ in range(int(rng.integers(0, 6))):
            x, y = (int(value) for value in rng.integers(20, 100, 2))
            radius, kind = int(rng.integers(3, 60)), int(rng.integers(0, 3))
            category = int(rng.choice([2, 5, 9]))
            mask = blob(kind, x, y, radius)
            ys, xs = mask.nonzero()
            left, top, width, height = (int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))
            right, bottom = left + width, top + height
            corners = (left, top, right, top, right, bottom, left, bottom)
            polygon = [[float(value) for value in corners]]
            annotation = Annotation(
                len(annotations) + 1,
                image.id,
                category,
                (left, top, width, height),
                int(mask.sum()),
                polygon if kind == 0 else encode_mask(mask),
                crowds and kind > 0 and bool(rng.random() < 0.2),
            )
            annotations.append(annotation)
            for _ in range(int(rng.integers(0, 120 if image.id == 3 else 4))):
                dx, dy, wider = (int(value) for value in rng.integers(-3, 4, 3))
                found = int(rng.choice([2, 5, 9])) if rng.random() < 0.2 else category
                score = round(float(rng.random()), 1 if tied else 6)
                results.append(result(image.id, found, score, blob(kind, x + dx, y + dy, max(1, radius + wider))))
    results.append(result(8, 2, 0.9, rectangle(3, 3, 20, 20)))
    return CocoDataset(images, tuple(annotations), categories), results


def result(image_id: int, category_id: int, score: float, mask: Any) -> dict[str, Any]:
    boxes = [[min(m), min(n), max(m), max(n)] for n, m in [mask.nonzero()]]
    found = Prediction(
        mask[None], np.array(boxes, np.float32), np.array([score], np.float32), np.array([0]), ("a",), mask.shape
    )
    return found.to_coco(image_id, [category_id])[0]


def by_pycocotools(
    dataset: CocoDataset, results: list[dict[str, Any]], kind: str, category_id: int | None = None
) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.to_json()
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), kind)
        if category_id is not None:
            evaluator.params.catIds = [category_id]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) if value > -1 else np.nan for value in evaluator.stats[:6]]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_pycocotools(seed: int, tied: bool) -> None:
    dataset, results = random_case(seed, tied=tied)
    given = copy.deepcopy(results)
    reports = evaluate(dataset, results)
    assert [report.iou_type for report in reports] == ["bbox", "segm"]
    assert results == given
    for report in reports:
        # Both average the same precisions in double precision.
        expected = by_pycocotools(dataset, results, report.iou_type)
        np.testing.assert_allclose([report.overall[name] for name in METRICS], expected, rtol=0, atol=1e-9)
        assert 0 < report.overall["AP"] < 1
        for category in dataset.categories:
            expected = by_pycocotools(dataset, results, report.iou_type, category.id)
            got = [report.per_class[category.name][name] for name in METRICS]
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def with_other_ids(
    dataset: CocoDataset, results: list[dict[str, Any]], ids: tuple[dict[int, int], dict[int, int], dict[int, int]]
) -> tuple[CocoDataset, list[dict[str, Any]]]:
    """Rename image, category and annotation ids in both."""
    images, categories, annotations = ids
    renamed = CocoDataset(
        tuple(
            replace(
                entry,
                id=images[entry.id],
                neg_category_ids=tuple(categories[old] for old in entry.neg_category_ids),
                not_exhaustive_category_ids=tuple(categories[old] for old in entry.not_exhaustive_category_ids),
            )
            for entry in dataset.images
        ),
        tuple(
            replace(
                entry,
                id=annotations[entry.id],
                image_id=images[entry.image_id],
                category_id=categories[entry.category_id],
            )
            for entry in dataset.annotations
        ),
        tuple(replace(entry, id=categories[entry.id]) for entry in dataset.categories),
    )
    return renamed, [
        {**entry, "image_id": images[entry["image_id"]], "category_id": categories[entry["category_id"]]}
        for entry in results
    ]


def other_ids(records: Any, first: int, rng: np.random.Generator) -> dict[int, int]:
    numbers = rng.permutation(len(records)) + first
    return {entry.id: int(number) for entry, number in zip(records, numbers, strict=True)}


@pytest.mark.parametrize("lvis", [False, True])
@pytest.mark.parametrize("first", [0, -3, -1000, 2**40, -(2**62)])
def test_precision_does_not_depend_on_ids(first: int, lvis: bool) -> None:
    """The evaluator takes annotation id 0 for none, and fails on negative image ids: no file's ids reach it."""
    rng = np.random.default_rng(abs(first) % 1000)
    for seed, tied in ((0, False), (1, True), (2, False)):
        dataset, results = random_case(seed, tied=tied)
        if lvis:
            images = [replace(i, neg_category_ids=(2, 9), not_exhaustive_category_ids=(5,)) for i in dataset.images]
            categories = [replace(entry, frequency=kind) for entry, kind in zip(dataset.categories, "rcf", strict=True)]
            dataset = replace(dataset, images=tuple(images), categories=tuple(categories))
        expected = reports_as_json(evaluate(dataset, results))
        ids = tuple(other_ids(part, first, rng) for part in (dataset.images, dataset.categories, dataset.annotations))
        renamed, renamed_results = with_other_ids(dataset, results, ids)  # type: ignore[arg-type] # three of them
        assert reports_as_json(evaluate(renamed, renamed_results)) == expected


@pytest.mark.parametrize("first", [0, -3])
def test_perfect_results_score_one_whatever_the_ids(first: int) -> None:
    dataset, _ = random_case(1, crowds=False)
    everything: tuple[Any, ...] = (dataset.images, dataset.categories, dataset.annotations)
    in_order = tuple({entry.id: first + place for place, entry in enumerate(part)} for part in everything)
    renamed, _ = with_other_ids(dataset, [], in_order)  # type: ignore[arg-type] # three of them
    results = [
        result(entry.image_id, entry.category_id, 0.9, decode_mask(entry, SIZE, SIZE)) for entry in renamed.annotations
    ]
    assert [report.overall["AP"] for report in evaluate(renamed, results)] == [1, 1]


def test_lvis_categories_that_are_not_evaluated_may_be_named() -> None:
    dataset, results = random_case(0)
    images = tuple(replace(image, neg_category_ids=(2, 77)) for image in dataset.images)
    known = tuple(replace(image, neg_category_ids=(2,)) for image in dataset.images)
    got, expected = (evaluate(replace(dataset, images=part), results) for part in (images, known))
    assert reports_as_json(got) == reports_as_json(expected)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_results_of_other_annotations_are_refused(key: str) -> None:
    dataset, results = random_case(0)
    with pytest.raises(AnnotationError, match=f"a result has {key} 77, which memory does not have"):
        evaluate(dataset, [{**results[0], key: 77}])


def test_cases_hold_what_is_hard() -> None:
    cases = [random_case(seed) for seed in range(5)]
    annotations = [entry for dataset, _ in cases for entry in dataset.annotations]
    areas = np.array([entry.area for entry in annotations])
    assert min((areas < 32**2).sum(), ((areas > 32**2) & (areas < 96**2)).sum(), (areas > 96**2).sum()) > 0
    assert sum(entry.iscrowd for entry in annotations) > 2
    assert any(sum(entry["image_id"] == 3 for entry in results) > 100 for _, results in cases)


def test_perfect_results_score_one_in_each_class() -> None:
    dataset, _ = random_case(1, crowds=False)
    results = [
        result(entry.image_id, entry.category_id, 0.9, decode_mask(entry, SIZE, SIZE)) for entry in dataset.annotations
    ]
    for report in evaluate(dataset, results):
        assert report.overall["AP"] == 1
        annotated = {dataset.categories_by_id[entry.category_id].name for entry in dataset.annotations}
        for name, metrics in report.per_class.items():
            assert metrics["AP50"] == 1 if name in annotated else np.isnan(metrics["AP50"])


def test_results_of_tensors_are_those_of_arrays() -> None:
    masks = np.zeros((2, 5, 7), dtype=bool)
    masks[0, 1:4, 2:7], masks[1, 4, 0] = True, True
    boxes, scores = np.array([[2, 1, 6, 3], [0, 4, 0, 4]], np.float32), np.array([0.75, 0.5], np.float32)
    labels = np.array([1, 0])
    expected = Prediction(masks, boxes, scores, labels, ("a", "b"), (5, 7)).to_coco(8, [30, 70])
    found = Instances(*map(torch.from_numpy, (masks, boxes, scores, labels)))
    assert coco_results(8, found, [30, 70]) == expected
    assert coco_results(8, Instances.empty((5, 7)), [30]) == []


def test_no_results_score_zero_and_no_annotations_nothing() -> None:
    dataset, results = random_case(0)
    assert evaluate(dataset, [])[0].overall["AP"] == 0
    bare = CocoDataset(dataset.images, (), dataset.categories)
    for report in (*evaluate(bare, results), *evaluate(bare, [])):
        assert np.isnan(list(report.overall.values())).all()
        assert set(report.per_class) == {"class 2", "class 5", "class 9"}


def test_annotations_without_masks_leave_masks_out(caplog: pytest.LogCaptureFixture) -> None:
    dataset, results = random_case(2)
    first = dataset.annotations[0]
    boxed = replace(first, segmentation=None)
    mixed = CocoDataset(dataset.images, (boxed, *dataset.annotations[1:]), dataset.categories)
    (report,) = evaluate(mixed, results)
    assert report.iou_type == "bbox"
    assert report.overall == evaluate(dataset, results)[0].overall
    assert "mask AP is left out" in caplog.text


def test_lvis_rules_leave_classes_out_that_were_not_looked_for() -> None:
    """A false positive counts in an image where its class is known to be absent, and not where nobody looked."""
    mask = rectangle(10, 10, 40, 40)
    annotation = Annotation(1, 1, 1, (10, 10, 40, 40), 1600, encode_mask(mask))
    hit, miss = result(1, 1, 0.5, mask), result(2, 1, 0.9, mask)
    aps = []
    categories = (Category(1, "looked for", "r"), Category(2, "other"))
    for negatives in ((1,), ()):
        images = (ImageRecord(1, "1.jpg", SIZE, SIZE, (2,)), ImageRecord(2, "2.jpg", SIZE, SIZE, negatives, (2,)))
        report = evaluate(CocoDataset(images, (annotation,), categories), [hit, miss])[0]
        assert report.overall["APr"] == report.overall["AP"]
        aps.append(report.overall["AP"])
    assert aps[0] < aps[1] == 1


def test_a_part_of_lvis_of_which_no_image_has_a_list_is_evaluated_by_its_rules_too() -> None:
    """As by `--data.max_targets`: what was not looked for is not wrong."""
    mask = rectangle(10, 10, 40, 40)
    annotation = Annotation(1, 1, 1, (10, 10, 40, 40), 1600, encode_mask(mask))
    images = tuple(ImageRecord(number, f"{number}.jpg", SIZE, SIZE) for number in (1, 2))
    results = [result(1, 1, 0.5, mask), result(2, 1, 0.9, mask)]
    aps = [
        evaluate(CocoDataset(images, (annotation,), (Category(1, "class", frequency),)), results)[0].overall["AP"]
        for frequency in ("f", None)
    ]
    assert aps[1] < aps[0] == 1


@pytest.mark.parametrize("segmentation", [[[10.0, 10, 30, 30]], {"size": [SIZE, SIZE], "counts": [5, 5]}])
def test_malformed_masks_are_refused(segmentation: Any) -> None:
    """The evaluator would take them for empty masks, of which nothing is found."""
    dataset, results = random_case(0)
    broken = replace(dataset.annotations[0], segmentation=segmentation)
    with pytest.raises(AnnotationError, match=f"annotation {broken.id}: expected"):
        evaluate(replace(dataset, annotations=(broken, *dataset.annotations[1:])), results)


def test_reports_are_json_and_a_table() -> None:
    dataset, results = random_case(3)
    reports = evaluate(dataset, results)
    document = json.loads(json.dumps(reports_as_json(reports), allow_nan=False))
    assert document["bbox"]["AP"] == reports[0].overall["AP"]
    assert set(document) == {"bbox", "segm"}
    assert set(document["segm"]["per_class"]) == {"class 2", "class 5", "class 9"}
    console = Console(file=io.StringIO(), width=120)
    console.print(ap_table(reports, title="precision"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"{100 * reports[0].overall['AP']:.1f}" in text
    assert "class 9" in text


def test_what_is_not_annotated_is_null_and_a_dash() -> None:
    dataset, results = random_case(3)
    reports = evaluate(CocoDataset(dataset.images, (), dataset.categories), results)
    document = json.loads(json.dumps(reports_as_json(reports), allow_nan=False))
    assert document["segm"]["AP"] is None
    assert document["bbox"]["per_class"]["class 2"] == dict.fromkeys(METRICS)
    console = Console(file=io.StringIO(), width=120)
    console.print(ap_table(reports, title="precision"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count(" - ") == 2 * 4 * len(METRICS)


def test_reports_beside_each_other() -> None:
    dataset, results = random_case(1)
    (_, whole), (_, half) = evaluate(dataset, results), evaluate(dataset, results[::2])
    console = Console(width=100, file=io.StringIO())
    console.print(comparison_table({"one": whole, "other": half}, title="both"))
    text = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    (line,) = (line for line in text.splitlines() if " all " in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    expected = [report.overall[metric] for report in (whole, half) for metric in ("AP", "AP50")]
    assert cells == ["all", *(f"{100 * value:.1f}" for value in expected)]
    assert all(name in text for name in whole.per_class)
