"""Small COCO documents that tests write to files."""

import json
from pathlib import Path
from typing import Any


def document() -> dict[str, Any]:
    """Two images of 8x6 and 4x4 pixels, two classes, one annotation of each kind of segmentation."""
    return {
        "info": {"year": 2024},
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 8, "height": 6, "license": 1},
            {"id": 3, "file_name": "b/c.jpg", "width": 4, "height": 4},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}],
        "annotations": [
            annotation(11, 7, 5, segmentation=[[1, 1, 5, 1, 5, 4, 1, 4]]),
            annotation(10, 3, 2, segmentation={"size": [4, 4], "counts": [5, 2, 2, 2, 5]}),
            annotation(12, 3, 5, segmentation={"size": [4, 4], "counts": "52203"}),
            annotation(13, 7, 5, segmentation=[]),
        ],
    }


def annotation(annotation_id: int, image_id: int, category_id: int, **more: Any) -> dict[str, Any]:
    """Return an annotation with a box of 2x2 pixels."""
    ids = {"id": annotation_id, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": [1, 1, 2.0, 2], "area": 4, "iscrowd": 0, **more}


def write(content: Any, folder: Path, name: str = "coco.json") -> Path:
    """Write a document to a file."""
    path = folder / name
    path.write_text(json.dumps(content))
    return path
