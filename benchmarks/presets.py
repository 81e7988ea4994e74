"""AP and seconds an image of each preset, with the demo's models on scenes of several seeds.

``python -m benchmarks.presets [--seeds 0 1 2 3] [--json FILE]``
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PRESETS = ("exact", "fast")


def run(preset: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run the demo with a preset, and return its metrics."""
    out = folder / f"{preset} {seed}"
    command = [
        *(sys.executable, "run_lightening.py", "--config", "pl_configs/quickstart.yaml"),
        *("--config", f"pl_configs/presets/{preset}.yaml", "--data.seed", str(seed)),
        *("--data.root", str(folder / f"scenes {seed}"), "--trainer.default_root_dir", str(out)),
        *("--model.overlays", "0", "--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def main() -> None:
    """Run all presets on all seeds and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the scenes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    figures: dict[str, Any] = {preset: {} for preset in PRESETS}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            for preset in PRESETS:
                metrics = run(preset, seed, Path(temporary))
                figures[preset][seed] = {
                    "mask AP": 100 * metrics["segm"]["AP"],
                    "box AP": 100 * metrics["bbox"]["AP"],
                    "seconds": metrics["seconds_per_image"],
                }
    table = Table("preset", *(f"seed {seed}: mask AP, box AP" for seed in args.seeds), "mean mask AP", "s/image")
    for preset, by_seed in figures.items():
        entries = list(by_seed.values())
        cells = [f"{entry['mask AP']:.1f}, {entry['box AP']:.1f}" for entry in entries]
        mean = statistics.fmean(entry["mask AP"] for entry in entries)
        table.add_row(preset, *cells, f"{mean:.1f}", f"{statistics.median(e['seconds'] for e in entries):.3f}")
    Console(width=160).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
