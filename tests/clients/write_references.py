"""Write one image with two objects in each form, by datumaro and supervision: `python write_references.py FOLDER`.

It runs in the clients' environment, and imports nothing of the project.
"""

import sys
from pathlib import Path

import numpy as np

# x, y, width and height of each object, in an image of 64x48 pixels.
BOXES = {"apple": (10, 8, 20, 16), "pear": (40, 20, 12, 20)}


def main(folder: Path) -> None:
    """Write a folder for each program, in it one for each form."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with_datumaro(folder, pixels)
    with_supervision(folder, pixels)


def corners(box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """Return the corners of a box."""
    x, y, width, height = box
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def with_datumaro(folder: Path, pixels: np.ndarray) -> None:
    """Write what CVAT's exports are written by."""
    from datumaro.components.annotation import Bbox, Mask, Polygon
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

    polygons = [
        Polygon([side for point in corners(box) for side in point], label=index, id=index + 1, group=index + 1)
        for index, box in enumerate(BOXES.values())
    ]
    boxes = [Bbox(*box, label=index, id=index + 1, group=index + 1) for index, box in enumerate(BOXES.values())]
    masks = []
    for index, (x, y, width, height) in enumerate(BOXES.values()):
        mask = np.zeros((48, 64), dtype=bool)
        mask[y : y + height, x : x + width] = True
        masks.append(Mask(mask, label=index, id=index + 1, group=index + 1))
    kinds = {
        "cvat": ("cvat", polygons),
        "cvat_boxes": ("cvat", boxes),
        "cvat_masks": ("cvat", masks),
        "voc": ("voc", [*boxes, *masks]),
        "coco": ("coco_instances", polygons),
        "yolo_boxes": ("yolo_ultralytics", boxes),
    }
    for name, (form, annotations) in kinds.items():
        item = DatasetItem("a", subset="train", media=Image.from_numpy(pixels), annotations=annotations)
        # YOLO's form has to have both.
        other = DatasetItem("b", subset="val", media=Image.from_numpy(pixels))
        dataset = Dataset.from_iterable([item, other] if name == "yolo_boxes" else [item], categories=list(BOXES))
        dataset.export(str(folder / "datumaro" / name), form, save_media=True)


def with_supervision(folder: Path, pixels: np.ndarray) -> None:
    """Write YOLO's polygons and Pascal VOC's boxes."""
    import cv2
    import supervision as sv

    path = folder / "a.png"
    cv2.imwrite(str(path), pixels)
    masks = np.zeros((2, 48, 64), dtype=bool)
    for mask, (x, y, width, height) in zip(masks, BOXES.values(), strict=True):
        mask[y : y + height, x : x + width] = True
    found = sv.Detections(xyxy=sv.mask_to_xyxy(masks).astype(float), mask=masks, class_id=np.array([0, 1]))
    dataset = sv.DetectionDataset(classes=list(BOXES), images=[str(path)], annotations={str(path): found})
    root = folder / "supervision"
    yolo = root / "yolo"
    dataset.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    dataset.as_pascal_voc(str(root / "voc" / "JPEGImages"), str(root / "voc" / "Annotations"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
