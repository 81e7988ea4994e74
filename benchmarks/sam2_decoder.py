"""SAM2's prompt decoder in ONNX Runtime against transformers' exported by torch.onnx, and against ours in torch.

``python -m benchmarks.sam2_decoder [--prompts 16] [--threads 1] [--repeats 7]`` decodes points on one image of 1,024
pixels with each, in turn, and prints the median time, its ratio to the file of torch.onnx, and how far the masks are
from that file's, of the largest logit. Weights are random: the decoder is the same in all sizes of SAM2.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from no_time_to_train.configs.sam2 import SAM2_CONFIGS
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.proposers.base import Prompts
from no_time_to_train.proposers.sam2.configs import to_transformers
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from no_time_to_train.proposers.sam2.weights import new_sam2

SIDE = 1024


class _Decoder(nn.Module):
    """The part of transformers' model that torch.onnx is to export."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(
        self, stride4: Tensor, stride8: Tensor, features: Tensor, points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode prompts as transformers does."""
        found = self._model(image_embeddings=[stride4, stride8, features], input_points=points, input_labels=labels)
        return found.iou_scores, found.pred_masks, found.object_score_logits


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(path, options)


def _decoders(model: Any, folder: Path, prompts: int, threads: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return a function for each decoder, which gives masks (1, N, 3, 256, 256)."""
    random = np.random.default_rng(0)
    shapes = ((1, 32, 256, 256), (1, 64, 128, 128), (1, 256, 64, 64))
    embeddings = [random.standard_normal(shape, np.float32) for shape in shapes]
    points = random.uniform(0, SIDE, (1, prompts, 1, 2)).astype(np.float32)
    labels = np.ones((1, prompts, 1), np.int64)
    given = [*embeddings, points, labels]
    names = [*(f"image_embeddings.{level}" for level in range(3)), "input_points", "input_labels"]
    number = torch.export.Dim("number")
    torch.onnx.export(
        _Decoder(model),
        tuple(map(torch.from_numpy, given)),
        str(folder / "torch.onnx"),
        dynamo=True,
        input_names=names,
        dynamic_shapes=({}, {}, {}, {1: number}, {1: number}),
    )
    theirs = _session(folder / "torch.onnx", threads)
    model.save_pretrained(folder / "weights")
    exported = export_onnx(folder / "weights", output=folder / "exported", verify=False)
    ours = _session(exported / "prompt_encoder_mask_decoder.onnx", threads)
    inputs = dict(zip(names, given, strict=True))
    boxed = inputs | {"input_boxes": np.zeros((1, 0, 4), np.float32)}
    predictor = Sam2Predictor(model)
    stride4, stride8, features = map(torch.from_numpy, embeddings)
    embedding = {"features": features, "stride4": stride4, "stride8": stride8}
    asked = Prompts(torch.from_numpy(points[0]), torch.from_numpy(labels[0]))

    def in_torch() -> np.ndarray:
        batches = predictor.mask_batches(embedding, asked, torch.isfinite)
        masks: np.ndarray = torch.cat([batch.mask_logits for batch in batches]).numpy()
        return masks.reshape(1, prompts, 3, SIDE // 4, SIDE // 4)

    return {
        "torch.onnx": lambda: theirs.run(None, inputs)[1],
        "ntt export": lambda: ours.run(None, boxed)[1],
        "torch, Sam2Predictor": in_torch,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model: Any = new_sam2(to_transformers(SAM2_CONFIGS["sam2_hiera_t.yaml"]))
    model.requires_grad_(False)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        decoders = _decoders(model, Path(folder), arguments.prompts, arguments.threads)
        expected = decoders["torch.onnx"]()
        taken: dict[str, list[float]] = {name: [] for name in decoders}
        drifts = {name: np.abs(decode() - expected).max() / np.abs(expected).max() for name, decode in decoders.items()}
        for _ in range(arguments.repeats):
            for name, decode in decoders.items():
                begin = time.perf_counter()
                decode()
                taken[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{arguments.prompts} prompts, {arguments.threads} threads, {arguments.repeats} repeats")
    for name, median in medians.items():
        ratio = median / medians["torch.onnx"]
        print(f"{name:>22}: {1000 * median:6.0f} ms, ratio {ratio:.2f}, masks differ by {drifts[name]:.1e}")


if __name__ == "__main__":
    main()
