"""Write the results of all images: `predictions.json`, and folders for other programs."""

import filecmp
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.data.image_files import real_path
from no_time_to_train.data.records import Category, ImageRecord
from no_time_to_train.errors import DataNotFoundError
from no_time_to_train.io.atomic import atomic_path, remove_file
from no_time_to_train.results.coco_output import PREDICTIONS, FoundDataset
from no_time_to_train.results.formats.folders import EXPORTS, is_export, remove_exports


def found_dataset(entries: Sequence[dict[str, Any]], class_names: Sequence[str], image_root: Path) -> FoundDataset:
    """Put a journal's entries together.

    Ids of images count from 1 in their order; so do those of categories, in the classes' order.

    Args:
        entries: The entries.
        class_names: The classes that were looked for.
        image_root: The folder to which the entries' file names are relative.
    """
    images = []
    results: list[dict[str, Any]] = []
    for image_id, entry in enumerate(entries, start=1):
        size = entry["width"], entry["height"]
        images.append(ImageRecord(image_id, entry["file_name"], *size, frame=entry.get("frame")))
        for instance in entry["instances"]:
            rest = {key: value for key, value in instance.items() if key != "category"}
            results.append({"image_id": image_id, **rest})
    categories = [Category(index, name) for index, name in enumerate(class_names, start=1)]
    return FoundDataset(images, results, categories, image_root)


def write_results(output: Path, dataset: FoundDataset, *, polygons: bool, stale: Sequence[str]) -> None:
    """Write `predictions.json`; if it differs from an earlier run's, remove what belonged to that one first.

    Args:
        output: The folder of the results.
        dataset: What was found.
        polygons: Write masks as polygons instead of RLE.
        stale: Names of the files that belong to the earlier `predictions.json`.

    Raises:
        OutputError: The folder cannot be written to.
    """
    path = output / PREDICTIONS
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(dataset.parts(path.parent, polygons=polygons))
        if not path.is_file() or not filecmp.cmp(temporary, path, shallow=False):
            for name in stale:
                remove_file(output / name)
            remove_exports(output)


def outside_exports(images: Sequence[InputImage], output: Path) -> list[InputImage]:
    """Leave out the images in folders that a run wrote for other programs.

    Raises:
        DataNotFoundError: There are no others.
    """
    folders = [output / name for name in EXPORTS if is_export(output / name, name)]
    kept = list(images)
    for folder in folders:
        real = Path(os.path.realpath(folder))
        kept = [image for image in kept if not Path(real_path(image.path)).is_relative_to(real)]
    if images and not kept:
        raise DataNotFoundError(
            f"all images are in {', '.join(map(str, folders))}, which this command writes",
            remedy="name the folder of the photographs, or another --output",
        )
    return kept
