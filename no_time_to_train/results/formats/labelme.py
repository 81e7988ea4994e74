"""LabelMe's JSON, a file for each image.

Source: labelme 6, ``labelme/_label_file.py``.
"""

import json
from pathlib import Path, PurePosixPath

import numpy as np

from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import FoundInstance, by_image, write_text
from no_time_to_train.results.formats.names import with_ending
from no_time_to_train.results.polygons import mask_to_polygons

# Of the form: readers of version 5 expect one.
_VERSION = "5.5.0"


def write_labelme(folder: Path, dataset: FoundDataset) -> None:
    """Write a JSON next to each image, with polygons, which LabelMe can edit; the parts of an instance have a group.

    Args:
        folder: Where to.
        dataset: With the names that images have there.
    """
    for image, instances in by_image(dataset):
        document: dict[str, object] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [shape for instance in instances for shape in _shapes(instance)],
            "imagePath": PurePosixPath(image.file_name).name,
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        write_text(folder / with_ending(image.file_name, ".json"), json.dumps(document) + "\n")


def _shapes(instance: FoundInstance) -> list[dict[str, object]]:
    polygons = mask_to_polygons(instance.mask())
    return [
        {
            "label": instance.class_name,
            "points": np.reshape(polygon, (-1, 2)).tolist(),
            "group_id": instance.number if len(polygons) > 1 else None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
            # No key of LabelMe's, which keeps it; X-AnyLabeling shows it.
            "score": instance.score,
        }
        for polygon in polygons
    ]
