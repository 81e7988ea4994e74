"""Write found instances as a COCO dataset that other programs read."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pycocotools import mask as coco_mask

from no_time_to_train import __version__
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.records import Annotation, Category, ImageRecord
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.results.polygons import mask_to_polygons

PREDICTIONS = "predictions.json"
_DESCRIPTION = "Instances found by no_time_to_train"


@dataclass(frozen=True)
class FoundDataset:
    """The instances that were found in images.

    Attributes:
        images: With unique ids, in the order in which they are written.
        results: COCO results with masks as compressed RLE, in the order in which they are written. Further keys are
            written too; the area in pixels is added where it is missing.
        categories: With unique ids and names.
        image_root: The folder to which the images' file names are relative.
    """

    images: Sequence[ImageRecord]
    results: Sequence[dict[str, Any]]
    categories: Sequence[Category]
    image_root: Path

    # The text with which every file of such a dataset begins.
    BEGINNING: ClassVar[str] = f'{{"info": {{"description": "{_DESCRIPTION}"'

    def write(self, path: Path, *, polygons: bool = False) -> None:
        """Write COCO JSON, wholly or not at all.

        Args:
            path: The file.
            polygons: Write masks as polygons, see `mask_to_polygons`, instead of RLE.

        Raises:
            OutputError: The file cannot be written.
        """
        write_text_atomic(path, self.parts(path.parent, polygons=polygons))

    def with_image_root(self, image_root: Path, file_names: Sequence[str]) -> "FoundDataset":
        """Return the same of images that are elsewhere and have other names.

        Args:
            image_root: The folder to which the file names are relative.
            file_names: The name of each image, in their order.
        """
        images = [replace(image, file_name=name) for image, name in zip(self.images, file_names, strict=True)]
        return replace(self, images=images, image_root=image_root)

    def parts(self, folder: Path, *, polygons: bool = False) -> Iterator[str]:
        """Return the text of the COCO JSON, an annotation at a time: all polygons together may not fit the memory.

        Args:
            folder: The folder of the file that is written.
            polygons: As for `write`.
        """
        info = {
            "description": _DESCRIPTION,
            "version": __version__,
            # No key of COCO's: file names are relative to it, and it is relative to the folder of this file.
            "image_root": relative_folder(self.image_root, folder),
        }
        images = [
            {
                "id": image.id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
                **(image.frame or {}),
            }
            for image in self.images
        ]
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        yield f'{{"info": {json.dumps(info)}, "licenses": [], "images": {json.dumps(images)}, '
        yield f'"categories": {json.dumps(categories)}, "annotations": ['
        by_id = {image.id: image for image in self.images}
        for number, result in enumerate(self.results, start=1):
            separator = "" if number == 1 else ",\n"
            yield separator + json.dumps(_annotation(number, result, by_id[result["image_id"]], polygons))
        yield "]}\n"


def relative_folder(folder: Path, start: Path) -> str:
    """Return a folder as seen from another, with `/` between; absolute where no path leads there.

    Examples:
        >>> relative_folder(Path("data/photos"), Path("runs/found"))
        '../../data/photos'
    """
    real = os.path.realpath(folder)
    try:
        real = os.path.relpath(real, os.path.realpath(start))
    except ValueError:
        # Another drive of Windows.
        pass
    return Path(real).as_posix()


def _annotation(number: int, result: dict[str, Any], image: ImageRecord, polygons: bool) -> dict[str, Any]:
    annotation = {"id": number, **result, "iscrowd": 0}
    if "area" not in annotation:
        annotation["area"] = int(coco_mask.area(result["segmentation"]))
    if polygons:
        record = Annotation(number, image.id, 0, (0, 0, 0, 0), 0, result["segmentation"])
        annotation["segmentation"] = mask_to_polygons(decode_mask(record, image.height, image.width))
    return annotation
