"""Pascal VOC: an XML with boxes for each image, and PNGs of classes and of objects.

Source: the development kit of PASCAL VOC 2012.
"""

import json
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from no_time_to_train.data.masks import box_of_mask
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.errors import OutputError
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import FoundInstance, by_image, label_map, voc_palette, write_text
from no_time_to_train.results.formats.names import plain_text, with_ending

# 0 is the background, 255 is void.
_MOST = 254


def write_voc(folder: Path, dataset: FoundDataset) -> None:
    """Write `Annotations/`, `SegmentationClass/`, `SegmentationObject/` and `ImageSets/`.

    The images are in `JPEGImages/`, in whatever format they are. Where instances overlap, a pixel is of the best one.
    `dataset_meta.json` has the names of the classes of the PNGs, as datumaro reads them.

    Args:
        folder: Where to.
        dataset: With the names that images have there.

    Raises:
        OutputError: There are more classes, or more instances in an image, than a PNG has numbers for.
    """
    _check_number(len(dataset.categories), "classes")
    colors = voc_palette()
    for image, instances in by_image(dataset):
        _check_number(len(instances), f"instances in {image.file_name}")
        text = _xml(image, instances)
        write_text(folder / "Annotations" / with_ending(image.file_name, ".xml"), text)
        numbers = label_map(instances, image.height, image.width)
        classes = np.array([0, *(instance.class_index + 1 for instance in instances)], np.uint8)[numbers]
        for kind, values in (("SegmentationClass", classes), ("SegmentationObject", numbers)):
            path = folder / kind / with_ending(image.file_name, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(values)
            picture.putpalette(colors.tobytes())
            picture.save(path)
    lines = "".join(f"{with_ending(image.file_name, '')}\n" for image in dataset.images)
    for kind in ("Main", "Segmentation"):
        write_text(folder / "ImageSets" / kind / "default.txt", lines)
    write_text(folder / "dataset_meta.json", json.dumps(_meta(dataset, colors)) + "\n")


def _check_number(count: int, what: str) -> None:
    if count > _MOST:
        raise OutputError(
            f"Pascal VOC's masks have numbers for {_MOST}, got {count} {what}",
            remedy="raise --min-score, or write --format masks, which has no such limit",
        )


def _xml(image: ImageRecord, instances: list[FoundInstance]) -> str:
    root = Element("annotation")
    path = PurePosixPath("JPEGImages", image.file_name)
    _add(root, "folder", path.parts[0])
    _add(root, "filename", image.file_name)
    size = SubElement(root, "size")
    for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, name, str(value))
    _add(root, "segmented", "1")
    for instance in instances:
        entry = SubElement(root, "object")
        _add(entry, "name", plain_text(instance.class_name))
        for name, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            _add(entry, name, text)
        x, y, width, height = map(int, box_of_mask(instance.mask()))
        box = SubElement(entry, "bndbox")
        # Pixels count from 1, and the last one is within.
        for name, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
            _add(box, name, str(value))
        # Pascal VOC has no scores; CVAT and datumaro have attributes.
        attribute = SubElement(SubElement(entry, "attributes"), "attribute")
        _add(attribute, "name", "score")
        _add(attribute, "value", str(instance.score))
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def _meta(dataset: FoundDataset, colors: UInt8[np.ndarray, "256 3"]) -> dict[str, object]:
    names = [plain_text(category.name) for category in dataset.categories]
    background = "background"
    while background in names:
        background = f"_{background}_"
    names.insert(0, background)
    return {
        "labels": names,
        "label_map": {str(index): name for index, name in enumerate(names)},
        "segmentation_colors": colors[: len(names)].tolist(),
        "background_label": "0",
    }
