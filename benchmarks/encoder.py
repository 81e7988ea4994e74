"""Latency of one encoder by several ways to run it: measured in turn, in one process, on random weights.

``python -m benchmarks.encoder [--encoder dinov3_small] [--sizes 224 512] [--batches 1 8] [--repeats 7] [--json FILE]``
prints medians, and each way's ratio to ours in fp32, of rounds in which all ways ran one after the other.

- ours: `ntt export` in ONNX Runtime, one file for all sizes and batches; in fp32, and in int8
- torch eager: transformers' model with its SDPA attention
- torch.onnx: `torch.onnx.export(dynamo=True)` of that model, a file of its own for every size and batch
- jax2onnx: its own DINOv3 example, likewise; its weights are its own random ones, as its model has no loader of ours
"""

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_torch_encoder
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.runtime.onnx_session import open_session, read_onnx_file
from no_time_to_train.weights.conversion import convert_weights

_PAUSE = 0.1  # seconds
OURS, INT8 = "ours fp32", "ours int8"
Run = Callable[[], Any]


class Ways:
    """The ways to run an encoder, made once for every size and batch."""

    def __init__(self, name: str, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.encoder: FeatureEncoder = build_torch_encoder(name, random_init=True)
        save_file(self.encoder.model.state_dict(), folder / "random.safetensors")
        convert_weights(folder / "random.safetensors", folder / "hf", "hf")
        self.folder = folder
        self.fp32 = open_session(read_onnx_file(export_onnx(name, folder / "hf")))
        self.int8 = open_session(read_onnx_file(export_onnx(name, folder / "hf", precision="int8")))

    def of(self, batch: int, size: int) -> dict[str, Run]:
        """Return every way for one size and batch."""
        pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
        tensor = torch.from_numpy(pixels)
        feed = {"pixel_values": pixels}

        def eager() -> None:
            with torch.inference_mode():
                self.encoder.model(pixel_values=tensor)

        return {
            OURS: lambda: self.fp32.run(None, feed),
            INT8: lambda: self.int8.run(None, feed),
            "torch eager": eager,
            "torch.onnx": self._torch_onnx(tensor),
            "jax2onnx example": self._jax2onnx(pixels),
        }

    def largest_difference(self, batch: int, size: int) -> float:
        """Compare ours in fp32 with torch."""
        pixels = np.random.default_rng(1).standard_normal((batch, 3, size, size), np.float32)
        with torch.inference_mode():
            expected = self.encoder.model(pixel_values=torch.from_numpy(pixels)).last_hidden_state.numpy()
        return float(np.abs(self.fp32.run(None, {"pixel_values": pixels})[0] - expected).max())

    def _torch_onnx(self, tensor: torch.Tensor) -> Run:
        path = self.folder / "torch.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Tuple(self.encoder.model), (tensor,), path, dynamo=True, input_names=["pixel_values"], verbose=False
            )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"pixel_values": tensor.numpy()})

    def _jax2onnx(self, pixels: np.ndarray) -> Run:
        import jax
        from jax2onnx import to_onnx
        from jax2onnx.plugins.examples.eqx.dino import VisionTransformer

        entry = self.encoder.config
        model = VisionTransformer(
            img_size=pixels.shape[-1],
            patch_size=entry.patch_size,
            embed_dim=entry.embed_dim,
            depth=entry.depth,
            num_heads=entry.num_heads,
            num_storage_tokens=entry.num_storage_tokens,
            key=jax.random.key(0),
        )
        path = self.folder / "example.onnx"
        to_onnx(model, [pixels.shape], return_mode="file", output_path=str(path))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (name,) = (value.name for value in session.get_inputs())
        return lambda: session.run(None, {name: pixels})


class _Tuple(torch.nn.Module):
    """A transformers model that gives the two outputs of our files."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(pixel_values=pixel_values)
        return output.last_hidden_state, output.pooler_output


def in_turn(ways: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Time all ways in turn, after an uncounted round.

    A session's threads spin for a while after it has answered, and would take the cores from whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_index in range(repeats + 1):
        for name, run in ways.items():
            time.sleep(_PAUSE)
            begin = time.perf_counter()
            run()
            if round_index:
                times[name].append(time.perf_counter() - begin)
    return times


def main() -> None:
    """Run all sizes and batches and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="dinov3_small")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds of each case")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(args.encoder, Path(folder))
        for size in args.sizes:
            for batch in args.batches:
                times = in_turn(ways.of(batch, size), args.repeats)
                difference = ways.largest_difference(batch, size)
                for name, spent in times.items():
                    ratios = [ours / other for ours, other in zip(times[OURS], spent, strict=True)]
                    rows.append(
                        {
                            "size": size,
                            "batch": batch,
                            "way": name,
                            "ms": 1e3 * statistics.median(spent),
                            "ours_to_it": statistics.median(ratios),
                            "ours_to_it_range": [min(ratios), max(ratios)],
                            "max_difference_ours_torch": difference,
                        }
                    )
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    table = Table(title=f"{args.encoder}, {versions}, {torch.get_num_threads()} threads, {platform.machine()}")
    for column in ("size", "batch", "way", "ms", "ours fp32 / it (min-max)", "ours fp32 to torch, max |Δ|"):
        table.add_column(column, justify="right")
    for row in rows:
        low, high = row["ours_to_it_range"]
        table.add_row(
            str(row["size"]),
            str(row["batch"]),
            str(row["way"]),
            f"{row['ms']:.1f}",
            f"{row['ours_to_it']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['max_difference_ours_torch']:.1e}",
        )
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
