"""One image of 64x48 pixels with an apple and a pear, annotated in each form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
APPLE, PEAR = (10, 8, 20, 16), (40, 20, 12, 20)  # x, y, width, height


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> Path:
    """Write a photograph of many colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Return a mask that fills a box."""
    x, y, width, height = box
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def corners(box: tuple[int, int, int, int]) -> list[list[float]]:
    """Return the corners of a box."""
    x, y, width, height = box
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def text(path: Path, content: str) -> Path:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def labelme_document(image: str = "a.jpg", **changes: Any) -> dict[str, Any]:
    """Return LabelMe's JSON: a polygon and a rectangle."""
    apple: dict[str, Any] = {
        "label": "apple",
        "points": corners(APPLE),
        "shape_type": "polygon",
        "group_id": None,
        "flags": {},
    }
    x, y, width, height = PEAR
    pear = {"label": "pear", "points": [[x, y], [x + width, y + height]], "shape_type": "rectangle", "group_id": None}
    document: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [apple, pear],
        "imagePath": image,
        "imageData": None,
    }
    return {**document, "imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}


def labelme(root: Path, **changes: Any) -> Path:
    """Write a folder of LabelMe."""
    picture(root / "a.jpg")
    text(root / "a.json", json.dumps(labelme_document(**changes)))
    return root


def yolo_rows() -> str:
    """Return a polygon of class 2 and a box of class 0."""
    polygon = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners(APPLE))
    x, y, width, height = PEAR
    box = f"{(x + width / 2) / WIDTH} {(y + height / 2) / HEIGHT} {width / WIDTH} {height / HEIGHT}"
    return f"2 {polygon}\n0 {box}\n"


def yolo(root: Path, rows: str | None = None) -> Path:
    """Write a folder of YOLO."""
    picture(root / "images" / "train" / "a.jpg")
    text(root / "labels" / "train" / "a.txt", yolo_rows() if rows is None else rows)
    text(root / "data.yaml", "path: .\ntrain: images/train\nnames:\n  0: pear\n  1: plum\n  2: apple\n")
    return root


def voc_document(name: str = "a.jpg", width: int = WIDTH, objects: str | None = None) -> str:
    """Return Pascal VOC's XML of two boxes."""
    made = "".join(
        f"<object><name>{label}</name><pose>Left</pose><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>"
        for label, (x, y, w, h) in (("apple", APPLE), ("pear", PEAR))
    )
    size = f"<size><width>{width}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{name}</filename>{size}{objects or made}</annotation>"


def voc(root: Path, *, masks: bool = False, **changes: Any) -> Path:
    """Write a folder of Pascal VOC; with masks, of the apple only, as the second of the image's objects."""
    picture(root / "JPEGImages" / "a.jpg")
    text(root / "Annotations" / "a.xml", voc_document(**changes))
    if masks:
        indices = np.where(mask_of(APPLE), 2, 0).astype(np.uint8)
        indices[0] = 255
        (root / "SegmentationObject").mkdir()
        image = Image.fromarray(indices, "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(root / "SegmentationObject" / "a.png")
    return root


def cvat_document(shapes: str | None = None, image: str = 'id="0" name="a.jpg" width="64" height="48"') -> str:
    """Return CVAT's XML of a mask of the apple and a box of the pear."""
    x, y, width, height = APPLE
    left, top, across, down = PEAR
    made = (
        f'<mask label="apple" rle="0, {width * height}" left="{x}" top="{y}" width="{width}" height="{height}"/>'
        f'<box label="pear" xtl="{left}" ytl="{top}" xbr="{left + across}" ybr="{top + down}" occluded="0"/>'
    )
    labels = "<label><name>pear</name></label><label><name>plum</name></label><label><name>apple</name></label>"
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    body = made if shapes is None else shapes
    return f"<annotations><version>1.1</version>{meta}<image {image}>{body}</image></annotations>"


def cvat(root: Path, **changes: Any) -> Path:
    """Write a folder of CVAT."""
    picture(root / "images" / "a.jpg")
    text(root / "annotations.xml", cvat_document(**changes))
    return root


def coco(root: Path) -> Path:
    """Write a folder with one COCO JSON, as CVAT exports it."""
    picture(root / "images" / "default" / "a.jpg")
    pairs = list(enumerate((("apple", APPLE), ("pear", PEAR)), start=1))
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": number, "name": name} for number, (name, _) in pairs],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "bbox": list(box), "area": 4, "iscrowd": 0}
            for number, (_, box) in pairs
        ],
    }
    document["annotations"][0]["segmentation"] = [[float(v) for point in corners(APPLE) for v in point]]
    text(root / "annotations" / "instances_default.json", json.dumps(document))
    return root


def by_class(root: Path) -> Path:
    """Write a folder by class: the apple by a mask, the pear by YOLO's box."""
    picture(root / "apple" / "1.jpg")
    Image.fromarray(mask_of(APPLE)).save(root / "apple" / "1.png")
    picture(root / "pear" / "1.jpg", seed=1)
    text(root / "pear" / "1.txt", yolo_rows().splitlines()[1])
    return root
