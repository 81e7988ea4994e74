"""AP and seconds an image of each preset, with the demo's models on scenes of several seeds.

``python -m benchmarks.presets [--presets exact fast published] [--seeds 0 1 2 3] [--shots 5] [--json FILE]``
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PRESETS = ("exact", "fast", "published")


def run(preset: str, seed: int, shots: int, folder: Path) -> dict[str, Any]:
    """Run the demo with a preset, and return its metrics."""
    out = folder / f"{preset} {seed} {shots}"
    command = [
        *(sys.executable, "run_lightening.py", "--config", "pl_configs/quickstart.yaml"),
        *("--config", f"pl_configs/presets/{preset}.yaml", "--data.seed", str(seed), "--data.shots", str(shots)),
        *("--data.root", str(folder / f"scenes {seed} {shots}"), "--trainer.default_root_dir", str(out)),
        *("--model.overlays", "0", "--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def main() -> None:
    """Run the presets on all seeds and numbers of references, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="names under pl_configs/presets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the scenes")
    parser.add_argument("--shots", type=int, nargs="+", default=[5], help="references a class")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    names = ("mask AP", "box AP")
    headings = [f"seed {seed}: {', '.join(names)}" for seed in args.seeds]
    table = Table("preset", "shots", *headings, f"mean {', '.join(names)}", "s/image")
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for shots, preset in itertools.product(args.shots, args.presets):
            entries = []
            for seed in args.seeds:
                metrics = run(preset, seed, shots, Path(temporary))
                entries.append(
                    {
                        **{"preset": preset, "shots": shots, "seed": seed},
                        **{"mask AP": 100 * metrics["segm"]["AP"], "box AP": 100 * metrics["bbox"]["AP"]},
                        "seconds": metrics["seconds_per_image"],
                    }
                )
            means = {name: statistics.fmean(entry[name] for entry in entries) for name in names}
            cells = [", ".join(f"{entry[name]:.1f}" for name in names) for entry in (*entries, means)]
            table.add_row(preset, str(shots), *cells, f"{statistics.median(e['seconds'] for e in entries):.3f}")
            figures += entries
            if args.json:
                args.json.write_text(json.dumps(figures, indent=1) + "\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
