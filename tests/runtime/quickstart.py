"""The bundle that the project ships, and the same pipeline in torch."""

from pathlib import Path

from no_time_to_train import Segmenter

FOLDER = Path(__file__).parents[2] / "checkpoints" / "quickstart"
SETTINGS = {"img_size": 96, "sam2_infer_cfgs": {"points_per_side": 6}, "memory_bank_cfg": {"crop_scale": 4.0}}


def onnx_segmenter(**settings: object) -> Segmenter:
    """Open both networks by their folders, at a small size."""
    sam2 = str(FOLDER / "sam2")
    return Segmenter(str(FOLDER / "encoder"), sam2=sam2, runtime="onnx", **{**SETTINGS, **settings})  # type: ignore[arg-type]


def torch_segmenter(**settings: object) -> Segmenter:
    """Build the same of the weights."""
    sam2 = str(FOLDER / "sam2")
    return Segmenter(str(FOLDER / "encoder"), sam2=sam2, runtime="torch", **{**SETTINGS, **settings})  # type: ignore[arg-type]
