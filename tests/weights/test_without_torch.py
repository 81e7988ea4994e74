"""The commands around weights where neither torch nor JAX can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden_files import golden
from tests.weights.conftest import REPOSITORY, WEIGHTS
from tests.weights.hub_server import Hub

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'jax', 'lightning', 'equinox')));"
    "from no_time_to_train.cli import main; sys.exit(main(sys.argv[1:]))"
)


def ntt(*arguments: object) -> str:
    """Run a command and return what it prints; an import of torch would raise."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ["vit_mlp_released", "convnext"])
def test_inspect_and_convert(name: str, tmp_path: Path) -> None:
    """Pickled tensors, all three targets, and back: the tensors of the files are the same."""
    found = json.loads(ntt("inspect", golden(name), "--json"))
    assert found["layout"].startswith("Meta DINOv3")
    assert found["not_finite"] == []
    for target, file in (("hf", "hf"), ("equinox", "a.eqx"), ("meta", "a.pth")):
        ntt("convert", golden(name), tmp_path / file, "--to", target)
        assert json.loads(ntt("inspect", tmp_path / file, "--json"))["architecture"] == found["architecture"]
    ntt("convert", tmp_path / "a.pth", tmp_path / "again", "--to", "hf")
    ntt("convert", tmp_path / "a.eqx", tmp_path / "third", "--to", "hf")
    contents = {(tmp_path / folder / WEIGHTS).read_bytes() for folder in ("hf", "again", "third")}
    assert len(contents) == 1


def test_fetch_validate_and_doctor(hub: Hub, tmp_path: Path) -> None:
    assert json.loads(ntt("fetch", REPOSITORY, "--root", tmp_path / "tiny", "--json"))["was_there"] is False
    assert "whole" in ntt("validate", tmp_path / "tiny", "--deep")
    findings = json.loads(ntt("doctor", REPOSITORY, "--root", tmp_path / "tiny", "--json"))
    assert {finding["state"] for finding in findings} <= {"fine", "left out"}, findings
