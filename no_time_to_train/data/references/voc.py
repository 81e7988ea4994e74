"""Pascal VOC's XML, one file for each image, and its masks of objects where there are any.

Boxes are taken as xmin, ymin, xmax and ymax say, as datumaro does: tools differ by a pixel in what they write.

Source: the development kit of PASCAL VOC 2012.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool
from PIL import Image

from no_time_to_train.data.images import load_image
from no_time_to_train.data.masks import box_of_mask
from no_time_to_train.data.references.builder import Box, LabeledImages, RecordBuilder, number_in
from no_time_to_train.data.references.xml_files import text_of
from no_time_to_train.errors import AnnotationError, MaskSizeError

_ANNOTATIONS, _MASKS = "Annotations", "SegmentationObject"
# What is around an object is of no object: index 255, and its color where a tool has written the palette's colors.
_VOID = (0, 255, 0xE0E0C0)
# IoU from which a mask's box is that of an object: masks leave out a border of a few pixels.
_LEAST_IOU = 0.5
_REMEDY = "correct it, or export the file again"


def read_voc(documents: Sequence[tuple[Path, Element]], root: Path, images: Path | None = None) -> LabeledImages:
    """Read Pascal VOC files.

    Where there is `SegmentationObject/1.png`, an object gets the mask whose box is like its own; others are boxes.

    Args:
        documents: Each file with its root element.
        root: The folder that was named.
        images: The folder of the images, where one was named.

    Raises:
        NoTimeToTrainError: A file is malformed, or an image is missing or of another size.
    """
    builder = RecordBuilder(root, images)
    for path, document in documents:
        name = text_of(document, "filename", str(path))
        parent, inner = _place_in(path, root)
        folders = [parent / "JPEGImages", parent / "images", path.parent, parent]
        size = None
        if document.find("size") is not None:
            width, height = (
                number_in(document.findtext(f"size/{side}"), side, str(path)) for side in ("width", "height")
            )
            # Some tools write 0 for what they do not know.
            size = (int(width), int(height)) if width and height else None
        record = builder.image(builder.find_image(name, str(path), folders), str(path), size)
        builder.files.append(path)
        objects = [
            (text_of(entry, "name", f"{path}: object {index}"), _box(entry, f"{path}: object {index}"))
            for index, entry in enumerate(document.findall("object"), start=1)
        ]
        masks = _masks_beside(parent / _MASKS / inner.with_suffix(".png"), (record.height, record.width), builder)
        for index, (label, box) in enumerate(objects, start=1):
            place = f"{path}: object {index}"
            mask = _mask_of(box, masks)
            if mask is None:
                builder.add_box(record, label, box, place)
            else:
                builder.add_mask(record, label, mask, place)
    return builder.build(str(root))


def _place_in(path: Path, root: Path) -> tuple[Path, Path]:
    """Return the folder of a dataset, and the path of one of its files within its folder of annotations."""
    for folder in path.parents:
        if folder.name == _ANNOTATIONS and folder.is_relative_to(root) and folder != root:
            return folder.parent, path.relative_to(folder)
    return (path.parent.parent if path.parent != root else root), Path(path.name)


def _box(entry: Element, place: str) -> Box:
    box = entry.find("bndbox")
    if box is None:
        raise AnnotationError(f"{place}: expected <bndbox>", remedy=_REMEDY)
    x1, y1, x2, y2 = (number_in(box.findtext(name), name, place) for name in ("xmin", "ymin", "xmax", "ymax"))
    return x1, y1, x2 - x1, y2 - y1


def _masks_beside(
    path: Path, size: tuple[int, int], builder: RecordBuilder
) -> list[tuple[Box, Bool[np.ndarray, "H W"]]]:
    """Return the masks of an image's objects with their boxes; none where it has no file of them."""
    if not path.is_file():
        return []
    builder.files.append(path)
    load_image(path)  # Says what is wrong with a file.
    with Image.open(path) as image:
        values = np.asarray(image if image.mode in ("P", "L") else image.convert("RGB")).astype(np.int64)
    if values.ndim == 3:
        values = values[..., 0] << 16 | values[..., 1] << 8 | values[..., 2]
    if values.shape != size:
        raise MaskSizeError(
            f"{path} is of {values.shape[1]}x{values.shape[0]} pixels, and its image of {size[1]}x{size[0]}",
            remedy="give masks of the images' size",
        )
    masks = [values == value for value in np.unique(values) if value not in _VOID]
    return [(box_of_mask(mask), mask) for mask in masks]


def _mask_of(box: Box, masks: list[tuple[Box, Bool[np.ndarray, "H W"]]]) -> Bool[np.ndarray, "H W"] | None:
    """Take out the mask whose box is most like a box, if one is like it."""
    if not masks:
        return None
    overlaps = [_iou(box, other) for other, _ in masks]
    best = int(np.argmax(overlaps))
    return masks.pop(best)[1] if overlaps[best] >= _LEAST_IOU else None


def _iou(first: Box, second: Box) -> float:
    (x, y, width, height), (left, top, across, down) = first, second
    columns, rows = min(x + width, left + across) - max(x, left), min(y + height, top + down) - max(y, top)
    shared = max(columns, 0.0) * max(rows, 0.0)
    return shared / max(width * height + across * down - shared, 1e-9)
