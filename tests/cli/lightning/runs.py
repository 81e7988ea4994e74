"""Runs of the main job, and what they wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from no_time_to_train.cli.lightning.command import main

ROOT = Path(__file__).parents[3]
BASE = ROOT / "pl_configs" / "matching_baseline_dinov3_test.yaml"


def run(*args: str | Path, into: Path) -> int:
    return main([*(str(arg) for arg in args), "--trainer.default_root_dir", str(into)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error, and see that it is one."""
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in lines)
    return errors[0]
