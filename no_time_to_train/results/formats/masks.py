"""A PNG for each image with the number of an instance at each pixel, and a table of the instances."""

import csv
from pathlib import Path

from PIL import Image

from no_time_to_train.errors import OutputError
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import by_image, label_map
from no_time_to_train.results.formats.names import plain_names, with_ending

TABLE = "instances.csv"
_COLUMNS = ("image", "mask", "id", "class", "score", "pixels")
_MOST = 2**16 - 1


def write_masks(folder: Path, dataset: FoundDataset) -> None:
    """Write a PNG of each image, of 16 bits where 8 do not do, and `instances.csv`.

    Where instances overlap, a pixel is of the best one. `pixels` counts what an instance has in the PNG.

    Args:
        folder: Where to.
        dataset: What was found.

    Raises:
        OutputError: There are more instances in an image than 16 bits have numbers for.
    """
    names = plain_names([image.file_name for image in dataset.images], [".png"])
    with (folder / TABLE).open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_COLUMNS)
        for (image, instances), name in zip(by_image(dataset), names, strict=True):
            if len(instances) > _MOST:
                raise OutputError(
                    f"{image.file_name} has {len(instances)} instances, and a PNG has numbers for {_MOST}",
                    remedy="raise --min-score",
                )
            numbers = label_map(instances, image.height, image.width)
            path = folder / with_ending(name, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers).save(path)
            shown = path.relative_to(folder).as_posix()
            for one in instances:
                pixels = int((numbers == one.number).sum())
                table.writerow([image.file_name, shown, one.number, one.class_name, one.score, pixels])
