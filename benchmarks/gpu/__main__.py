"""A GPU's correctness and speed in one bounded run: `make gpu-check`.

``python -m benchmarks.gpu [--seconds 400] [--parts machine networks ...] [--out FOLDER]``

Random weights, nothing is downloaded. Each part prints as it ends and is kept in FOLDER/gpu.json; a part that fails
says how, and the others go on. `--tiny --device cpu` runs the same with small models on a machine without a GPU.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import pipeline, programs, training
from benchmarks.gpu.timing import FULL, TINY, Bench

Part = Callable[[Bench], dict[str, Any]]
# In the order in which they run, each with the seconds without which it is not begun.
PARTS: dict[str, tuple[Part, float]] = {
    "machine": (programs.machine, 10),
    "tests": (programs.gpu_tests, 60),
    "stages": (pipeline.stages, 30),
    "networks": (pipeline.networks, 30),
    "prompts": (pipeline.prompts, 20),
    "matching": (pipeline.matching, 20),
    "profile": (pipeline.profiled, 20),
    "training": (training.training, 40),
    "teacher": (training.teacher, 15),
    "onnx": (programs.onnx, 5),
    "jax": (programs.jax_port, 30),
    "compiled": (pipeline.compiled, 60),
}


def main() -> int:
    """Run the parts that fit into the time; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few repetitions")
    parser.add_argument("--seconds", type=float, default=400, help="time after which no part is begun")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --tiny tries the script", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    begin, figures, failed = time.monotonic(), dict[str, Any](), False
    for name in args.parts:
        part, least = PARTS[name]
        left = args.seconds - (time.monotonic() - begin)
        if left < least and not args.tiny:
            figures[name] = {"skipped": f"{left:.0f} s are left, {least:.0f} s are needed"}
        else:
            bench = Bench(torch.device(args.device), TINY if args.tiny else FULL, args.out, left)
            try:
                figures[name] = part(bench)
            except Exception:
                figures[name], failed = {"error": traceback.format_exc()[-3000:]}, True
            figures[name]["seconds of this part"] = round(time.monotonic() - begin - (args.seconds - left), 1)
        print(f"== {name}", flush=True)
        show(figures[name])
        failed |= bool(figures[name].get("failed"))
        (args.out / "gpu.json").write_text(json.dumps(figures, indent=1) + "\n")
    return int(failed)


def show(figures: dict[str, Any], indent: str = "  ") -> None:
    """Print figures, a line each."""
    for key, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        elif isinstance(value, str) and "\n" in value:
            print(f"{indent}{key}:\n{value}")
        else:
            print(f"{indent}{key}: {f'{value:.4g}' if isinstance(value, float) else value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
