"""Images a second of two processes against one, each on one thread, and of the presets, by whole commands.

``python -m benchmarks.processes [--repeats 3] [--json FILE]`` runs the demo over few and over many of its scenes: the
difference is the time of the images alone, without the start of processes and the loading of models.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

FEW, MANY = 16, 96
CONFIGS = Path("pl_configs")


def wall(targets: int, devices: int, preset: str, folder: Path) -> float:
    """Run the command over so many targets in so many processes, and return its seconds."""
    command = [
        *(
            sys.executable,
            "run_lightening.py",
            "--config",
            str(CONFIGS / "quickstart.yaml"),
            "--config",
            f"pl_configs/presets/{preset}.yaml",
        ),
        *("--data.root", str(folder / f"scenes {targets}"), "--data.num_targets", str(targets)),
        *("--data.num_workers", "0", "--model.overlays", "0", "--trainer.default_root_dir", str(folder / "run")),
        *("--trainer.accelerator", "cpu", "--trainer.devices", str(devices), "--trainer.callbacks", "null"),
        *("--trainer.enable_progress_bar", "false"),
    ]
    if devices > 1:
        command += ["--trainer.strategy", "ddp"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - begin


def images_per_second(devices: int, preset: str, folder: Path) -> float:
    """Return how many images a second are added by more images."""
    few, many = (wall(targets, devices, preset, folder) for targets in (FEW, MANY))
    return (MANY - FEW) / (many - few)


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    table = Table("preset", "one process, images/s", "two processes, images/s", "ratio (min-max)")
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for targets in (FEW, MANY):
            wall(targets, 1, "fast", folder)  # draws the scenes
        for preset in ("exact", "fast"):
            rounds = [[images_per_second(count, preset, folder) for count in (1, 2)] for _ in range(args.repeats)]
            ratios = [two / one for one, two in rounds]
            one, two = (statistics.median(values) for values in zip(*rounds, strict=True))
            figures[preset] = {"one": one, "two": two, "ratios": ratios}
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            table.add_row(preset, f"{one:.2f}", f"{two:.2f}", spread)
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
