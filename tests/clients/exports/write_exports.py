"""Write the exported folders that clients open, what they compute, and what torch gives: the project's environment.

    python -m tests.clients.exports.write_exports FOLDER

FOLDER/models gets the folders, FOLDER/jobs a file for each client, FOLDER/expected.json what torch gives.
"""

import json
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.transformers_js import export_for_transformers_js
from no_time_to_train.export.verify import natural_noise, normalise
from no_time_to_train.proposers.sam2.predictor import build_sam2
from tests.clients.exports.plan import CLIENTS, POINTS, PRECISIONS, SIDE, Case, jobs

QUICKSTART = Path(__file__).parents[3] / "checkpoints" / "quickstart"


def write_models(folder: Path) -> None:
    for name, opset in product(("encoder", "sam2"), sorted({client.opset for client in CLIENTS.values()})):
        for precision in PRECISIONS:
            case = Case.of("flat", opset, precision)
            output = folder / (case.encoder if name == "encoder" else case.sam2)
            export_onnx(QUICKSTART / name, output=output, opset=opset, precision=precision, verify=False)
        case = Case.of("transformers.js", opset, "fp32")
        output = folder / (case.encoder if name == "encoder" else case.sam2)
        export_for_transformers_js(QUICKSTART / name, output=output, precisions=PRECISIONS, opset=opset, verify=False)


def weights_in(folder: Path, case: dict[str, Any]) -> list[str]:
    """Return the names of the files of weights: a page cannot list a folder."""
    paths = (folder / case["subfolder"]).iterdir()
    return sorted(path.name for path in paths if path.name.endswith((".safetensors", ".onnx_data")))


def as_json(array: np.ndarray) -> dict[str, Any]:
    return {"dims": array.shape, "data": array.ravel().tolist()}


def computed() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the clients' inputs, and what torch gives for them."""
    encoder, sam2 = build_encoder_from_checkpoint(QUICKSTART / "encoder"), build_sam2(str(QUICKSTART / "sam2"), None)
    # Not square: sides that are swapped would show.
    pixels = normalise(natural_noise((1, 3, SIDE, 2 * SIDE), seed=0), IMAGE_MEAN, IMAGE_STD)
    image = normalise(natural_noise((1, 3, sam2.image_size, sam2.image_size), seed=1), IMAGE_MEAN, IMAGE_STD)
    points = np.asarray(POINTS, np.float32)[:, None]
    with torch.inference_mode():
        features = encoder.tokens(torch.from_numpy(pixels))
        masks = sam2.decode_points(
            sam2.embed(torch.from_numpy(image)),
            torch.from_numpy(points),
            torch.ones(points.shape[:2], dtype=torch.int64),
        )
    inputs = {"pixels": as_json(pixels), "image": as_json(image), "points": as_json(points[None])}
    expected = {"features": features, "logits": masks.mask_logits[None], "predicted_iou": masks.predicted_iou[None]}
    return inputs, {name: as_json(tensor.numpy()) for name, tensor in expected.items()}


def main(folder: Path) -> None:
    for name in ("models", "jobs", "results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("jobs", "results"):
        (folder / name).mkdir(parents=True)
    write_models(folder / "models")
    inputs, expected = computed()
    (folder / "expected.json").write_text(json.dumps(expected))
    for path, job in jobs(inputs):
        for case in job["cases"]:
            case["weights"] = {
                model: weights_in(folder / "models" / case[model], case) for model in ("encoder", "sam2")
            }
        (folder / "jobs" / path).write_text(json.dumps(job))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
