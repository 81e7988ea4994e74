"""The folder in which the pages' commands are run: the repository's root as readers have it, with small pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from no_time_to_train.data.masks import encode_mask
from tests.docs.blocks import ROOT

SIDE = 224
# The photographs of which the pages speak, drawn: a red disc for an apple, an orange one for a basketball.
CLASSES = {"apple": (200, 30, 40), "basketball": (230, 120, 30)}
REFERENCES = range(1, 4)
TARGETS = range(4, 5)


def prepare(folder: Path) -> Path:
    """Fill a folder and return it: configurations, shipped models, pictures and their COCO JSON."""
    for name in ("pl_configs", "checkpoints", "run_lightening.py"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("photos", "refs", "masks"):
        (folder / name).mkdir()
    documents = {name: _empty() for name in ("refs", "photos")}
    rng = np.random.default_rng(0)
    for class_index, (name, colour) in enumerate(CLASSES.items(), start=1):
        for number in (*REFERENCES, *TARGETS):
            kind = "refs" if number in REFERENCES else "photos"
            pixels, mask = _picture(rng, colour)
            file_name = f"{name}_{number:02d}"
            Image.fromarray(pixels).save(folder / kind / f"{file_name}.jpg", quality=95)
            if kind == "refs":
                Image.fromarray(mask).save(folder / "masks" / f"{file_name}.png")
            _annotate(documents[kind], f"{file_name}.jpg", class_index, mask)
    for name in ("train.json", "refs.json"):
        (folder / name).write_text(json.dumps(documents["refs"]))
    (folder / "truth.json").write_text(json.dumps(documents["photos"]))
    return folder


def _empty() -> dict[str, Any]:
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    return {"images": [], "annotations": [], "categories": categories}


def _picture(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    pixels = rng.integers(60, 110, (SIDE, SIDE, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    # Within the boxes that the pages name.
    y, x, radius = rng.integers(100, 112), rng.integers(68, 78), rng.integers(22, 28)
    mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    pixels[mask] = colour
    return pixels, mask


def _annotate(document: dict[str, Any], file_name: str, category_id: int, mask: np.ndarray) -> None:
    number = len(document["images"]) + 1
    ys, xs = mask.nonzero()
    document["images"].append({"id": number, "file_name": file_name, "width": SIDE, "height": SIDE})
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
    document["annotations"].append(
        {
            "id": number,
            "image_id": number,
            "category_id": category_id,
            "bbox": box,
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": encode_mask(mask),
        }
    )
