"""Runs of the main job, and what they wrote."""

import json
from pathlib import Path
from typing import Any

from no_time_to_train.lightning_cli import main

ROOT = Path(__file__).parents[2]
BASE = ROOT / "pl_configs" / "matching_baseline_dinov3_test.yaml"


def run(*args: str | Path, into: Path) -> int:
    return main([*(str(arg) for arg in args), "--trainer.default_root_dir", str(into)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())
