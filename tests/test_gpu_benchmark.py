"""The GPU benchmark on a machine without a GPU: small models, the parts that need no process of their own."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import main


@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
def test_its_parts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["machine", "stages", "prompts", "matching", "onnx", "teacher"]
    monkeypatch.setattr("sys.argv", ["gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--parts", *parts])
    assert main() == 0
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert list(figures) == parts
    assert figures["stages"]["exact"]["all, ms"] > 0
    # Of the largest logit, between ours and transformers' decoder: 6e-7 is measured.
    assert figures["prompts"]["largest difference"] < 1e-5
    assert figures["matching"]["instances as on a CPU, 640x480"]
    assert figures["teacher"]["largest difference"] == 0
    assert "== prompts" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert main() == 2
    assert "no CUDA device here; --device cpu --tiny tries the script" in capsys.readouterr().err
