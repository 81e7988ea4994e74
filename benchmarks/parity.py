"""Parity of full-size encoders with random weights in torch, Equinox and ONNX, and how sharply faults are told.

``python -m benchmarks.parity [--encoders dinov3_small ...]`` compares one encoder after another on noise with the
statistics of photographs at three sizes, in batches of 1 and 3, and prints the worst of every pair and the largest
error of a sound stage in units of what is allowed. Then it scales one weight of the Equinox model by 1.001 at a time,
in the first, a middle and the last block, and prints how far beyond what is allowed the mildest of these errs.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_torch_encoder
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.parity import compare_features
from no_time_to_train.parity.inputs import make_noise
from tests.parity.planted import equinox_faults

ENCODERS = ("dinov3_small", "dinov3_small_plus", "dinov3_convnext_tiny")
SIZES = ((224, 224), (256, 384), (640, 480))
BATCHES = (1, 3)


def sound(name: str, encoder: FeatureEncoder, weights: Path, table: Table) -> None:
    """Compare the three backends."""
    others = [load_eqx_encoder(name, weights), export_onnx(name, weights, verify=False)]
    for size in SIZES:
        for batch in BATCHES:
            pixels = make_noise(batch, size, encoder.config)
            report = compare_features(encoder, *others, pixel_values=pixels)
            excess = max(stage.excess or 0.0 for stage in report.blocks)
            apart = [
                f"{max(pair.cls.max_abs, pair.patches.max_abs):.1e} ({pair.expected.split()[-1]})"
                for pair in report.pairs
            ]
            verdict = "ok" if report.ok else str(report)
            table.add_row(name, f"{size[0]}x{size[1]}", str(batch), *apart, f"{excess:.2f}", verdict)


def faulty(name: str, encoder: FeatureEncoder, weights: Path, table: Table) -> None:
    """Compare with faults."""
    model = load_eqx_encoder(name, weights)
    pixels = make_noise(1, (224, 224), encoder.config)
    depth = encoder.config.depth
    found, mildest, missed, count = 0, ("", float("inf")), [], 0
    for fault in equinox_faults(model):
        if fault.block not in (-1, 0, depth // 2, depth - 1, depth) or "eps" in fault.what:
            continue
        report = compare_features(encoder, fault.model, pixel_values=pixels)
        drift, count = report.first_drift, count + 1
        if drift is None or (drift.block, drift.stage) != (fault.block, fault.stage) or drift.excess is None:
            missed.append(f"{fault.what} of block {fault.block}")
            continue
        found += 1
        mildest = min(mildest, (f"{fault.what} of block {fault.block}", drift.excess), key=lambda pair: pair[1])
    table.add_row(name, f"{found} of {count}", f"{mildest[1]:.0f} ({mildest[0]})", ", ".join(missed))


def main() -> None:
    """Measure all and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    args = parser.parse_args()
    clean = Table(title="largest difference of a token's number, fp32, random weights (and what is allowed)")
    for column in ("encoder", "size", "batch", "torch-eqx", "torch-onnx", "eqx-onnx", "stage, of what is allowed", ""):
        clean.add_column(column)
    planted = Table(title="one weight times 1.001 in the Equinox model, 224x224")
    for column in ("encoder", "found at their place", "mildest, times what is allowed", "missed"):
        planted.add_column(column)
    for name in args.encoders:
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                encoder = build_torch_encoder(name, random_init=True)
            weights = Path(folder) / "random.safetensors"
            save_file(encoder.model.state_dict(), weights)
            encoder = build_torch_encoder(name, weights)
            sound(name, encoder, weights, clean)
            faulty(name, encoder, weights, planted)
    console = Console(width=170)
    console.print(clean)
    console.print(planted)


if __name__ == "__main__":
    main()
