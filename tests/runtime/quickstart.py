"""The bundle that the project ships, and the same pipeline in torch."""

from pathlib import Path
from typing import Any

from no_time_to_train import Segmenter

FOLDER = Path(__file__).parents[2] / "checkpoints" / "quickstart"
SETTINGS: dict[str, Any] = {
    "img_size": 96,
    "sam2_infer_cfgs": {"points_per_side": 6},
    "memory_bank_cfg": {"crop_scale": 4.0},
}


def onnx_segmenter(**settings: Any) -> Segmenter:
    """Open both networks by their folders, at a small size."""
    sam2 = str(FOLDER / "sam2")
    return Segmenter(str(FOLDER / "encoder"), sam2=sam2, runtime="onnx", **{**SETTINGS, **settings})


def torch_segmenter(**settings: Any) -> Segmenter:
    """Build the same of the weights."""
    sam2 = str(FOLDER / "sam2")
    return Segmenter(str(FOLDER / "encoder"), sam2=sam2, runtime="torch", **{**SETTINGS, **settings})
