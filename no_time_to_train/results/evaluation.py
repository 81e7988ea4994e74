"""COCO results and average precision.

Precision is computed by faster-coco-eval, by COCO's rules, or by LVIS's where the annotations are LVIS's.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.table import Table

from no_time_to_train.data.coco import CocoDataset
from no_time_to_train.data.prediction import Prediction, Result
from no_time_to_train.errors import AnnotationError
from no_time_to_train.io.redact import printable
from no_time_to_train.results.truth import check_masks

log = logging.getLogger(__name__)

IouType = Literal["bbox", "segm"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_AREAS = {"APs": 1, "APm": 2, "APl": 3}
_LVIS_LISTS = {"neg_category_ids", "not_exhaustive_category_ids"}


@dataclass(frozen=True)
class ApReport:
    """Average precision of one kind of box or mask.

    Attributes:
        iou_type: `bbox` or `segm`.
        overall: The metrics `AP AP50 AP75 APs APm APl` over all classes, in [0, 1]; NaN where nothing is annotated.
            With LVIS annotations also `APr APc APf`, over the rare, common and frequent classes.
        per_class: The first six for each class.
    """

    iou_type: IouType
    overall: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]


def coco_results(image_id: int, instances: Any, category_ids: Sequence[int], *, far_pixel: int = 1) -> list[Result]:
    """Return COCO results of matching's `Instances`; of a `Prediction`, `to_coco` gives them.

    Args:
        image_id: In the target annotations.
        instances: What was found, as tensors or arrays.
        category_ids: COCO's id of each label.
        far_pixel: See `Prediction`.
    """
    values = [getattr(instances, name) for name in ("masks", "boxes", "scores", "labels")]
    masks, boxes, scores, labels = (np.asarray(value.cpu() if hasattr(value, "cpu") else value) for value in values)
    names, size = tuple(map(str, category_ids)), (masks.shape[1], masks.shape[2])
    return Prediction(masks, boxes, scores, labels, names, size, far_pixel).to_coco(image_id, category_ids)


def evaluate(dataset: CocoDataset, results: Sequence[Result]) -> list[ApReport]:
    """Compute average precision for boxes, and for masks where every annotation has one.

    Args:
        dataset: The targets' annotations, of the classes that were looked for.
        results: As `Prediction.to_coco` gives them.

    Raises:
        AnnotationError: A result is of an image or a category that the annotations do not have, or a mask of theirs is
            malformed.
        MaskSizeError: A mask is of another size than its image.
    """
    # The evaluator takes malformed masks for empty ones or for boxes, or fails.
    check_masks(dataset)
    kinds: list[IouType] = ["bbox"]
    if all(annotation.segmentation is not None for annotation in dataset.annotations):
        kinds.append("segm")
    else:
        log.warning("%s has annotations without masks: mask AP is left out", dataset.source)
    document, renumbered = _renumbered(dataset, results)
    return [_evaluate(dataset, document, renumbered, kind) for kind in kinds]


def _renumbered(dataset: CocoDataset, results: Sequence[Result]) -> tuple[dict[str, Any], list[Result]]:
    """Return annotations and results with ids from 1 on, in the order of the file.

    The evaluator takes annotation id 0 for "unmatched", and fails on negative image ids; files have either.

    Raises:
        AnnotationError: A result is of an image or a category that the annotations do not have.
    """
    document = dataset.to_json()
    images = {image.id: number for number, image in enumerate(dataset.images, start=1)}
    categories = {category.id: number for number, category in enumerate(dataset.categories, start=1)}
    for image in document["images"]:
        image["id"] = images[image["id"]]
        for key in _LVIS_LISTS & image.keys():
            # An image also names categories that are not evaluated here.
            image[key] = [categories[category_id] for category_id in image[key] if category_id in categories]
    for category in document["categories"]:
        category["id"] = categories[category["id"]]
    for number, annotation in enumerate(document["annotations"], start=1):
        annotation["id"] = number
        annotation["image_id"] = images[annotation["image_id"]]
        annotation["category_id"] = categories[annotation["category_id"]]
    renumbered = []
    for result in results:
        for key, known in (("image_id", images), ("category_id", categories)):
            if result[key] not in known:
                raise AnnotationError(
                    f"a result has {key} {result[key]}, which {dataset.source} does not have",
                    remedy="evaluate results with the annotations of their own images and categories",
                )
        numbers = {"image_id": images[result["image_id"]], "category_id": categories[result["category_id"]]}
        renumbered.append({**result, **numbers})
    return document, renumbered


def _evaluate(dataset: CocoDataset, document: dict[str, Any], results: Sequence[Result], kind: IouType) -> ApReport:
    """Evaluate renumbered results; the categories of `document` are numbered by their place in `dataset`."""
    from faster_coco_eval import COCO, COCOeval_faster

    # Of a part of the images no one may have a list.
    lvis = any(category.frequency for category in dataset.categories) or any(
        image.neg_category_ids or image.not_exhaustive_category_ids for image in dataset.images
    )
    if lvis:
        # LVIS counts a class only where it was looked for. faster-coco-eval 1.8 means to leave the others out too, and
        # fails on an image of which nothing is left.
        looked_for = {image["id"]: set(image.get("neg_category_ids", ())) for image in document["images"]}
        for annotation in document["annotations"]:
            looked_for[annotation["image_id"]].add(annotation["category_id"])
        results = [result for result in results if result["category_id"] in looked_for[result["image_id"]]]
    if not results or not dataset.annotations:
        blank = dict.fromkeys(METRICS, 0.0 if dataset.annotations else float("nan"))
        return ApReport(kind, blank, dict.fromkeys(dataset.class_names, blank))
    if lvis:
        # The evaluator asks for it; a class whose frequency is not said counts among the frequent ones there, not here.
        document = {**document, "categories": [{"frequency": "f"} | entry for entry in document["categories"]]}
    truth = COCO(document)
    evaluator = COCOeval_faster(
        truth, truth.loadRes([dict(result) for result in results]), kind, lvis_style=lvis, print_function=log.debug
    )
    if lvis:
        evaluator.params.maxDets = [300]
    evaluator.evaluate()
    evaluator.accumulate()
    # Thresholds, recalls, classes, areas, numbers of detections.
    precision: np.ndarray = evaluator.eval["precision"]
    thresholds = np.asarray(evaluator.params.iouThrs)
    overall = _metrics(precision, thresholds)
    frequencies = [category.frequency for category in dataset.categories]
    for frequency in sorted({frequency for frequency in frequencies if frequency}):
        chosen = [index for index, entry in enumerate(frequencies) if entry == frequency]
        overall[f"AP{frequency}"] = _metrics(precision[:, :, chosen], thresholds)["AP"]
    per_class = {
        name: _metrics(precision[:, :, place : place + 1], thresholds) for place, name in enumerate(dataset.class_names)
    }
    return ApReport(kind, overall, per_class)


def _metrics(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    def mean(values: np.ndarray) -> float:
        # -1 stands where there is nothing to recall.
        valid = values[values > -1]
        return float(valid.mean()) if valid.size else float("nan")

    all_areas = precision[..., 0, -1]
    metrics = {
        "AP": mean(all_areas),
        "AP50": mean(all_areas[np.isclose(thresholds, 0.5)]),
        "AP75": mean(all_areas[np.isclose(thresholds, 0.75)]),
    }
    return metrics | {name: mean(precision[..., area, -1]) for name, area in _AREAS.items()}


def ap_table(reports: Sequence[ApReport], *, title: str) -> Table:
    """Lay out reports as a table in points (hundredths), a row per class under the row of all."""
    table = Table(title=title)
    table.add_column("")
    table.add_column("class")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for report in reports:
        rows = [("all", report.overall), *report.per_class.items()]
        for index, (name, metrics) in enumerate(rows):
            cells = [_points(metrics[metric]) for metric in METRICS]
            table.add_row(
                report.iou_type if index == 0 else "", printable(name), *cells, end_section=index == len(rows) - 1
            )
    return table


def comparison_table(reports: Mapping[str, ApReport], *, title: str) -> Table:
    """Lay out reports of one kind beside each other, in points, a row per class under the row of all.

    Args:
        reports: By what is compared; of the same classes.
        title: Of the table.
    """
    metrics = METRICS[:2]
    table = Table(title=title)
    table.add_column("class", no_wrap=True)
    for name in reports:
        for metric in metrics:
            table.add_column(f"{name}\n{metric}", justify="right")
    first = next(iter(reports.values()))
    for row, label in enumerate(("all", *first.per_class)):
        values = [report.per_class[label] if row else report.overall for report in reports.values()]
        cells = [_points(entry[metric]) for entry in values for metric in metrics]
        table.add_row(printable(label), *cells, end_section=row == 0)
    return table


def _points(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def reports_as_json(reports: Sequence[ApReport]) -> dict[str, Any]:
    """Return reports as plain values for JSON, with null where nothing is annotated."""

    def plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else value for name, value in metrics.items()}

    return {
        report.iou_type: {
            **plain(report.overall),
            "per_class": {name: plain(metrics) for name, metrics in report.per_class.items()},
        }
        for report in reports
    }
