"""Open exported folders with a program for Python, and write what it gives: runs in that program's environment.

    python open_exports.py CLIENT MODELS JOB.json RESULT.json

The result has the program's version and, for each case, its outputs or its error.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
# A graph's inputs to its outputs, by name.
Run = Callable[[Arrays], Arrays]


def with_onnxruntime(graph: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def with_openvino(graph: Path) -> Run:
    import openvino

    # By default it computes in bfloat16 where the CPU can.
    model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Arrays) -> Arrays:
        return {output.any_name: value for output, value in model(inputs).items()}

    return run


def with_optimum(graph: Path) -> Run:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    folder, subfolder = (graph.parent.parent, "onnx") if graph.parent.name == "onnx" else (graph.parent, "")
    model = ORTModelForFeatureExtraction.from_pretrained(folder, subfolder=subfolder, file_name=graph.name)
    return lambda inputs: {"last_hidden_state": model(**inputs).last_hidden_state}


# By the beginning of a client's name: the package whose version counts, and how it opens a graph.
PROGRAMS: dict[str, tuple[str, Callable[[Path], Run]]] = {
    "onnxruntime": ("onnxruntime", with_onnxruntime),
    "openvino": ("openvino", with_openvino),
    "optimum": ("optimum-onnx", with_optimum),
}


def array(told: dict[str, Any]) -> np.ndarray:
    return np.asarray(told["data"], np.float32).reshape(told["dims"])


def opened(open_graph: Callable[[Path], Run], models: Path, case: dict[str, Any], job: dict[str, Any]) -> Arrays:
    """Return the features of the encoder, and the logits and predicted IoUs of SAM2."""

    def graph(model: str, name: str) -> Path:
        return models.joinpath(case[model], case["subfolder"], f"{name}{case['suffix']}.onnx")

    found = {"features": open_graph(graph("encoder", "model"))({"pixel_values": array(job["pixels"])})}
    outputs = {"features": found["features"]["last_hidden_state"]}
    if job["sam2"]:
        points = array(job["points"])
        prompts = {
            "input_points": points,
            "input_labels": np.ones(points.shape[:3], np.int64),
            "input_boxes": np.zeros((1, 0, 4), np.float32),
        }
        embeddings = open_graph(graph("sam2", "vision_encoder"))({"pixel_values": array(job["image"])})
        masks = open_graph(graph("sam2", "prompt_encoder_mask_decoder"))({**embeddings, **prompts})
        outputs |= {"logits": masks["pred_masks"], "predicted_iou": masks["iou_scores"]}
    return outputs


def main(client: str, models: str, job: str, result: str) -> None:
    package, open_graph = PROGRAMS[client.split("-")[0]]
    told = json.loads(Path(job).read_text())
    cases: list[dict[str, Any]] = []
    for case in told["cases"]:
        try:
            outputs = opened(open_graph, Path(models), case, told)
        except Exception as error:  # whatever it is, it is what the table says of this case
            cases.append({"error": f"{type(error).__name__}: {error}"})
        else:
            cases.append(
                {name: {"dims": found.shape, "data": found.ravel().tolist()} for name, found in outputs.items()}
            )
    Path(result).write_text(json.dumps({"version": version(package), "cases": cases}))


if __name__ == "__main__":
    main(*sys.argv[1:])
