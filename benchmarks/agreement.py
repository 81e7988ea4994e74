"""How far full-size exported encoders, with random weights, are from torch's and from features in float64.

``python -m benchmarks.agreement [--encoders dinov3_small ...]`` exports one dynamic file an encoder and prints the
largest difference over three sizes and the batches 1 and 3. float64 is compared at 224x224, batch 1.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.runtime.onnx_session import open_session, read_onnx_file

ENCODERS = ("dinov3_small", "dinov3_small_plus", "dinov3_base", "dinov3_large", "dinov3_convnext_tiny")
SIZES = ((224, 224), (256, 384), (480, 640))


def measure(name: str, folder: Path) -> tuple[float, float, float]:
    """Return the largest differences: ours to torch, ours to float64, torch to float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = build_torch_encoder(name, random_init=True)
    save_file(encoder.model.state_dict(), folder / "random.safetensors")
    session = open_session(read_onnx_file(export_onnx(name, folder / "random.safetensors")))

    def ours(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["last_hidden_state"], {"pixel_values": pixels.numpy()})[0])

    random = np.random.default_rng(0)
    to_torch = 0.0
    with torch.inference_mode():
        for size in SIZES:
            for batch in (1, 3):
                pixels = torch.from_numpy(random.standard_normal((batch, 3, *size), np.float32))
                to_torch = max(to_torch, (ours(pixels) - encoder.tokens(pixels)).abs().max().item())
        pixels = torch.from_numpy(random.standard_normal((1, 3, 224, 224), np.float32))
        mine, theirs = ours(pixels), encoder.tokens(pixels)
        truth = build_torch_encoder(name, folder / "random.safetensors", dtype=torch.float64).tokens(pixels)
    return to_torch, (mine - truth).abs().max().item(), (theirs - truth).abs().max().item()


def main() -> None:
    """Measure all and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    args = parser.parse_args()
    table = Table(title="largest difference of a feature, fp32, random weights")
    for column in ("encoder", "ours to torch", "ours to float64 (224)", "torch to float64 (224)"):
        table.add_column(column)
    for name in args.encoders:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(name, *(f"{value:.1e}" for value in measure(name, Path(folder))))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
