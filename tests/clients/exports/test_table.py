"""The table of clients hides nothing: what did not run, did not open, or is not what torch gives ends with status 1."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.exports import table
from tests.clients.exports.plan import CLIENTS

CLIENT = "onnxruntime-opset23-fp16"
EXPECTED = {
    "features": {"dims": [1, 2], "data": [2.0, -4.0]},
    "logits": {"dims": [1, 2], "data": [1.0, 0.5]},
    "predicted_iou": {"dims": [1], "data": [0.5]},
}


def run(folder: Path, *cases: dict[str, Any]) -> int:
    (folder / "results").mkdir()
    (folder / "expected.json").write_text(json.dumps(EXPECTED))
    if cases:
        (folder / "results" / f"{CLIENT}.json").write_text(json.dumps({"version": "1.2.3", "cases": cases}))
    return table.main(folder, [CLIENT])


def changed(output: str, *data: float) -> dict[str, Any]:
    return {**EXPECTED, output: {**EXPECTED[output], "data": list(data)}}


def test_differences_within_limits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [case.layout for case in CLIENTS[CLIENT].cases] == ["flat", "transformers.js"]
    assert run(tmp_path, EXPECTED, changed("features", 2.004, -4.0)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2:] == [
        "| onnxruntime | 1.2.3 | `flat` | 23 | fp16 | yes | 0.0e+00 | 0.0e+00 | 0.0e+00 |",
        "| onnxruntime | 1.2.3 | `transformers.js` | 23 | fp16 | yes | 1.0e-03 | 0.0e+00 | 0.0e+00 |",
    ]
    assert printed.err == ""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (changed("features", 2.0, -3.9), "features differ by 2.5e-02, expected at most 0.005"),
        (changed("logits", 1.0, 0.51), "logits differ by 1.0e-02"),
        (changed("predicted_iou", 0.51), "predicted_iou differ by 1.0e-02"),
        (changed("features", float("nan"), -4.0), "features: NaN or Inf"),
        ({**EXPECTED, "features": {"dims": [2], "data": [2.0, -4.0]}}, "shape [2], expected [1, 2]"),
        ({"error": "Traceback\nOSError: /home/someone/models/model.onnx: a | b"}, "OSError: model.onnx: a \\| b"),
    ],
)
def test_a_fault_ends_with_status_1(
    case: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, EXPECTED, case) == 1
    printed = capsys.readouterr()
    assert f"{CLIENT}, transformers.js, opset 23, fp16: " in printed.err
    assert said in printed.err
    assert ("| no: OSError" in printed.out) == ("error" in case)


def test_a_client_that_was_not_run_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "expected.json").write_text(json.dumps(EXPECTED))
    (tmp_path / "results" / f"{CLIENT}.log").write_text("Looking\nERROR: no matching distribution\nstatus 1\n")
    assert table.main(tmp_path, [CLIENT]) == 1
    printed = capsys.readouterr()
    assert "| not run: ERROR: no matching distribution, status 1 |" in printed.out
    assert f"{CLIENT} was not run" in printed.err


def test_a_missing_case_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        run(tmp_path, EXPECTED)
