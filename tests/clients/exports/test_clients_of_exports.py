"""`tests/clients/run.sh` runs the promised clients, and its program for Python reads the shipped graphs."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from no_time_to_train.export.graph_file import ExportOptions
from tests.clients.exports import open_exports, plan, table
from tests.clients.exports.plan import CLIENTS, Case
from tests.clients.exports.write_exports import computed

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
REQUIREMENTS = HERE / "requirements"


def test_each_client_for_python_has_its_requirements() -> None:
    ours = {name for name in CLIENTS if not name.endswith(("-node", "-chromium"))}
    assert {path.stem for path in REQUIREMENTS.iterdir()} == ours
    for path in REQUIREMENTS.iterdir():
        assert all("==" in line for line in path.read_text().splitlines()), path.name
    assert {name.split("-")[0] for name in ours} == set(open_exports.PROGRAMS)


@pytest.mark.parametrize("name", ["onnxruntime-oldest", "onnxruntime-opset23", "onnxruntime-opset23-fp16"])
def test_the_oldest_promised_runtimes_are_tried(name: str) -> None:
    client = CLIENTS[name]
    for precision in client.precisions:
        needed = ExportOptions(opset=client.opset, precision=precision).needed_runtime
        assert f"onnxruntime=={needed}." in (REQUIREMENTS / f"{name}.txt").read_text()


def test_every_precision_and_layout_is_tried() -> None:
    assert get_args(plan.Precision) == plan.PRECISIONS == tuple(plan.LIMITS)
    assert get_args(plan.Layout) == plan.LAYOUTS


def pinned(name: str) -> str:
    """Return the version of a client that is installed; of onnxruntime-web, which comes with transformers.js, none."""
    if name.startswith("transformers.js"):
        package = json.loads((HERE.parent / "package.json").read_text())
        return str(package["dependencies"]["@huggingface/transformers"])
    if name.endswith("-chromium"):
        return ""
    package_name = open_exports.PROGRAMS[name.split("-")[0]][0]
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)[package_name]


@pytest.mark.parametrize("name", CLIENTS)
def test_the_docs_have_a_row_for_each_case(name: str) -> None:
    lines = (ROOT / "docs" / "export.md").read_text().splitlines()
    assert f"| {' | '.join(table.HEADINGS)} |" in lines
    for case in CLIENTS[name].cases:
        begin = f"| {CLIENTS[name].title} | {pinned(name)}"
        cells = f" | `{case.layout}` | {case.opset} | {case.precision} | yes |"
        assert any(line.startswith(begin) and cells in line for line in lines), begin + cells


def test_shipped_graphs_give_what_torch_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the project's own onnxruntime; run.sh does it with others."""
    inputs, expected = computed()
    case = asdict(Case("flat", 23, "fp32", "encoder", "sam2", "", ""))
    missing = {**case, "encoder": "none"}
    (tmp_path / "job.json").write_text(json.dumps({"sam2": True, "cases": [case, missing], **inputs}))
    result = tmp_path / "result.json"
    models = ROOT / "checkpoints" / "quickstart"
    open_exports.main("onnxruntime-newest", str(models), str(tmp_path / "job.json"), str(result))
    found, refused = json.loads(result.read_text())["cases"]
    for name, array in expected.items():
        difference = table.difference_of(found[name], array, relative=True)
        # Noise of fp32 is 1e-6.
        assert difference < 1e-5, name
        assert np.ptp(array["data"]) > 0
    assert "none/model.onnx" in refused["error"]


def test_an_unknown_client_is_refused() -> None:
    done = subprocess.run(
        [HERE.parent / "run.sh", "unused", "netscape"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: netscape is not a client: expected one of onnxruntime-oldest ")
    assert not (ROOT / "unused").exists()
