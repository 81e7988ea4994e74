"""The files that the main job writes of all targets: `results.json`, `predictions.json` and `metrics.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from no_time_to_train.data.coco import Category, CocoDataset
from no_time_to_train.data.prediction import Result
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.results.coco_output import PREDICTIONS, FoundDataset

RESULTS, METRICS = "results.json", "metrics.json"


def write_results(
    folder: Path,
    targets: CocoDataset,
    indices: Sequence[int],
    results: Sequence[Result],
    categories: Mapping[int, str],
    *,
    image_root: Path,
) -> None:
    """Write what was found: as a list of COCO results, and as a COCO dataset with the names of images and classes.

    Args:
        folder: The run's.
        targets: All targets.
        indices: Places among the targets of those that were matched.
        results: What was found in them.
        categories: The name of each class by its id.
        image_root: The folder that the targets' file names are relative to.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text_atomic(folder / RESULTS, json.dumps(results) + "\n")
    images = [targets.images[index] for index in indices]
    named = [Category(category_id, name) for category_id, name in categories.items()]
    FoundDataset(images, results, named, image_root).write(folder / PREDICTIONS)


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write a run's metrics; they come last, and where they are all else is of the same run.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text_atomic(folder / METRICS, json.dumps(metrics, indent=1) + "\n")
