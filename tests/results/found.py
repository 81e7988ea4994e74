"""What was found in small images, for tests of what is written of it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from no_time_to_train.data.coco import encode_mask
from no_time_to_train.data.images import load_stamped_image
from no_time_to_train.io.file_stamps import FileStamp


def entry(name: str, mask: np.ndarray) -> dict[str, Any]:
    """Return a journal's entry of an image with one instance."""
    found = {"category": "ring", "category_id": 1, "bbox": [1.0, 1.0, 7.0, 7.0], "score": 0.5, "area": int(mask.sum())}
    height, width = mask.shape
    return {
        "file_name": name,
        "height": height,
        "width": width,
        "instances": [found | {"segmentation": encode_mask(mask)}],
    }


def ring_mask() -> np.ndarray:
    """Return a mask with a hole."""
    mask = np.zeros((12, 10), dtype=bool)
    mask[1:8, 1:8] = True
    mask[3:5, 3:6] = False
    return mask


def stamped(images: list[Path]) -> list[tuple[Path, FileStamp]]:
    """Return files with their stamps."""
    return [(path, load_stamped_image(path)[1]) for path in images]


def photographs(folder: Path, *names: str) -> list[Path]:
    """Write small images of one color."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (9, 8, 7)).save(folder / name)
    return [folder / name for name in names]
