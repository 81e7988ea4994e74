import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from no_time_to_train.data.coco import Annotation, Category, CocoDataset, ImageRecord
from no_time_to_train.data.masks import decode_mask, encode_mask
from no_time_to_train.evaluation import METRICS, ap_table, coco_results, evaluate, reports_as_json
from no_time_to_train.matching import Instances

SIZE = 120


def rectangle(x: int, y: int, width: int, height: int) -> Any:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def random_case(seed: int, *, crowds: bool = True) -> tuple[CocoDataset, list[dict[str, Any]]]:
    """Make annotations of three classes, and results that lie near them, beside them, and nowhere near."""
    rng = np.random.default_rng(seed)
    categories = tuple(Category(id, f"class {id}") for id in (2, 5, 9))
    images = tuple(ImageRecord(id, f"{id}.jpg", SIZE, SIZE) for id in range(1, 7))
    annotations: list[Annotation] = []
    results: list[dict[str, Any]] = []
    for image in images[:-1]:
        for _ in range(int(rng.integers(0, 5))):
            x, y = (int(value) for value in rng.integers(0, 50, 2))
            width, height = (int(value) for value in rng.integers(8, 70, 2))
            category = int(rng.choice([2, 5, 9]))
            mask = rectangle(x, y, width, height)
            crowd = crowds and bool(rng.random() < 0.15)
            annotation = Annotation(
                len(annotations) + 1,
                image.id,
                category,
                (x, y, width, height),
                int(mask.sum()),
                encode_mask(mask),
                crowd,
            )
            annotations.append(annotation)
            for _ in range(int(rng.integers(0, 3))):
                dx, dy = (int(value) for value in rng.integers(0, 9, 2))
                moved = rectangle(x + dx, y + dy, width, height)
                found = int(rng.choice([2, 5, 9])) if rng.random() < 0.2 else category
                results.append(result(image.id, found, float(rng.random()), moved))
    results.append(result(6, 2, 0.9, rectangle(3, 3, 20, 20)))
    return CocoDataset(images, tuple(annotations), categories), results


def result(image_id: int, category_id: int, score: float, mask: Any) -> dict[str, Any]:
    instances = Instances(
        torch.from_numpy(mask)[None],
        torch.tensor([[min(m), min(n), max(m), max(n)] for n, m in [mask.nonzero()]], dtype=torch.float32),
        torch.tensor([score]),
        torch.tensor([0]),
    )
    return coco_results(image_id, instances, [category_id])[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_agrees_with_pycocotools(seed: int, kind: str) -> None:
    dataset, results = random_case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.to_json()
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    report = next(report for report in evaluate(dataset, results) if report.iou_type == kind)
    expected = [value if value > -1 else np.nan for value in evaluator.stats[:6]]
    # Both average the same precisions in double precision.
    np.testing.assert_allclose([report.overall[name] for name in METRICS], expected, atol=1e-9)


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


def test_results_are_cocos() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:4, 2:7], masks[1, 4, 0] = True, True
    boxes = torch.tensor([[2.0, 1, 6, 3], [0, 4, 0, 4]])
    found = coco_results(8, Instances(masks, boxes, torch.tensor([0.75, 0.5]), torch.tensor([1, 0])), [30, 70])
    assert [entry["bbox"] for entry in found] == [[2, 1, 5, 3], [0, 4, 1, 1]]
    assert [entry["category_id"] for entry in found] == [70, 30]
    assert [entry["score"] for entry in found] == [0.75, 0.5]
    assert {entry["image_id"] for entry in found} == {8}
    decoded = decode_mask(Annotation(1, 8, 70, (0, 0, 1, 1), 1, found[0]["segmentation"]), 5, 7)
    assert np.array_equal(decoded, masks[0].numpy())
    assert coco_results(8, Instances.empty((5, 7)), [30]) == []
    json.dumps(found)


def test_no_results_score_zero_and_no_annotations_nothing() -> None:
    dataset, results = random_case(0)
    assert evaluate(dataset, [])[0].overall["AP"] == 0
    bare = CocoDataset(dataset.images, (), dataset.categories)
    assert np.isnan(evaluate(bare, results)[0].overall["AP"])


def test_annotations_without_masks_leave_masks_out() -> None:
    dataset, results = random_case(2)
    first = dataset.annotations[0]
    boxed = Annotation(first.id, first.image_id, first.category_id, first.bbox, first.area, None)
    mixed = CocoDataset(dataset.images, (boxed, *dataset.annotations[1:]), dataset.categories)
    assert [report.iou_type for report in evaluate(mixed, results)] == ["bbox"]


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


def test_reports_are_json_and_a_table() -> None:
    dataset, results = random_case(3)
    reports = evaluate(dataset, results)
    document = json.loads(json.dumps(reports_as_json(reports), allow_nan=False))
    assert set(document) == {"bbox", "segm"}
    assert set(document["segm"]["per_class"]) == {"class 2", "class 5", "class 9"}
    console = Console(file=io.StringIO(), width=120)
    console.print(ap_table(reports, title="precision"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"{100 * reports[0].overall['AP']:.1f}" in text
    assert "class 9" in text
