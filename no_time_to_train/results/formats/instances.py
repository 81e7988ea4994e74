"""The instances of each image, as the writers of other programs' forms take them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.records import Annotation, ImageRecord
from no_time_to_train.results.coco_output import FoundDataset


@dataclass(frozen=True)
class FoundInstance:
    """An instance in an image.

    Attributes:
        number: Among the instances of its image, from 1, best first.
        class_index: Place of its class among the categories.
        class_name: Name of its class.
        score: From 0 to 1.
        rle: Its mask as compressed RLE.
    """

    number: int
    class_index: int
    class_name: str
    score: float
    rle: dict[str, Any]

    def mask(self) -> Bool[np.ndarray, "H W"]:
        """Decode the mask."""
        height, width = self.rle["size"]
        return decode_mask(Annotation(self.number, 0, 0, (0, 0, 0, 0), 0, self.rle), height, width)


def by_image(dataset: FoundDataset) -> Iterator[tuple[ImageRecord, list[FoundInstance]]]:
    """Return each image with its instances, best first."""
    indices = {category.id: index for index, category in enumerate(dataset.categories)}
    results: dict[int, list[dict[str, Any]]] = {image.id: [] for image in dataset.images}
    for result in dataset.results:
        results[result["image_id"]].append(result)
    for image in dataset.images:
        instances = []
        for number, result in enumerate(sorted(results[image.id], key=lambda one: -one["score"]), start=1):
            index = indices[result["category_id"]]
            name = dataset.categories[index].name
            # Scores round to a little above 1.
            score = round(min(float(result["score"]), 1.0), 6)
            instances.append(FoundInstance(number, index, name, score, result["segmentation"]))
        yield image, instances


def label_map(instances: list[FoundInstance], height: int, width: int) -> np.ndarray:
    """Return the number of the instance at each pixel, 0 for none; where several are, the best one's.

    Returns:
        An array (H, W), uint8 if the numbers fit, else uint16 or uint32.
    """
    numbers = np.zeros((height, width), dtype=np.min_scalar_type(len(instances)))
    for instance in reversed(instances):
        numbers[instance.mask()] = instance.number
    return numbers


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return Pascal VOC's colors: bits of the number, spread over red, green and blue from the highest bit down.

    Examples:
        >>> voc_palette()[[1, 2, 3, 255]].tolist()
        [[128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192]]
    """
    numbers = np.arange(256)
    channels = [sum(((numbers >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
