"""YOLO's segmentation labels: a text file for each image, a row for each instance.

Source: the dataset formats of Ultralytics' documentation.
"""

from pathlib import Path

import yaml

from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import by_image, write_text
from no_time_to_train.results.formats.names import with_ending
from no_time_to_train.results.polygons import mask_to_ring


def write_yolo_seg(folder: Path, dataset: FoundDataset) -> None:
    """Write `labels/` and `data.yaml`; the images are in `images/`. A row has no place for a score.

    Args:
        folder: Where to.
        dataset: With the names that images have there.
    """
    for image, instances in by_image(dataset):
        rows = []
        for instance in instances:
            ring = mask_to_ring(instance.mask()) / [image.width, image.height]
            rows.append(" ".join([str(instance.class_index), *(f"{value:.6g}" for value in ring.reshape(-1))]))
        # An image without an instance gets an empty file: it is known to have none.
        write_text(folder / "labels" / with_ending(image.file_name, ".txt"), "".join(f"{row}\n" for row in rows))
    names = {index: category.name for index, category in enumerate(dataset.categories)}
    document = {"train": "images", "val": "images", "names": names}
    write_text(folder / "data.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
