"""The folder that transformers.js opens, without it; with it: tests/clients/test_transformers_js.py."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from no_time_to_train.cli import main
from no_time_to_train.errors import OutputError
from no_time_to_train.export.graph_file import Precision
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.transformers_js import export_for_transformers_js, graphs_in
from no_time_to_train.runtime.onnx_session import open_session, read_onnx_file
from tests.golden_files import golden

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    """As other programs open it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixel_values": pixels})[0])


def test_each_graph_has_its_own_weights(tmp_path: Path) -> None:
    folder = export_for_transformers_js(
        golden("vit_mlp"), output=tmp_path / "js", precisions=("fp32", "int8"), verify=False
    )
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    graphs = {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    weights = {f"{name}_data" for name in graphs}
    settings = {"config.json", "preprocessor_config.json"}
    assert graphs | weights | settings <= files <= graphs | weights | settings | {"DINOV3_LICENSE_NOTICE.txt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {
        "use_external_data_format": {"model.onnx": 1, "model_quantized.onnx": 1}
    }
    assert config["model_type"] == "dinov3_vit"
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 48), dtype=np.float32)
    flat = run(export_onnx(golden("vit_mlp"), output=tmp_path / "flat", verify=False) / "model.onnx", pixels)
    assert np.array_equal(run(folder / "onnx/model.onnx", pixels), flat)
    # This package opens them, too: their weights are as they were exported.
    for path in graphs_in(folder):
        open_session(read_onnx_file(path))


def test_an_older_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "js"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        folder = export_for_transformers_js(golden("vit_mlp"), output=output, precisions=(precision,), verify=False)
    assert [path.name for path in graphs_in(folder)] == ["model_fp16.onnx"]
    (output / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not an export that could be made again"):
        export_for_transformers_js(golden("vit_mlp"), output=output, verify=False)
    assert (output / "onnx" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["js"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["export", str(golden("vit_mlp")), "--layout", "transformers.js"]
    assert main([*wanted, "--output", str(tmp_path / "js"), "--no-verify"]) == 0
    assert "onnx/model.onnx: " in capsys.readouterr().out
    assert main(wanted) == 2
    assert "the layout transformers.js needs a folder of its own (name one with --output)" in capsys.readouterr().err
    assert main(["export", str(golden("vit_mlp")), "--precision", "all", "--output", str(tmp_path / "x")]) == 2
    assert "--precision all is for --layout transformers.js" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_sam2_has_two_graphs(tmp_path: Path) -> None:
    folder = export_for_transformers_js(QUICKSTART / "sam2", output=tmp_path / "js", verify=False)
    names = ["prompt_encoder_mask_decoder.onnx", "vision_encoder.onnx"]
    assert [path.name for path in graphs_in(folder)] == names
    data = [folder / "onnx" / f"{name}_data" for name in names]
    # Both point into the same weights, which are on the disk once.
    assert data[0].samefile(data[1])
    assert not (folder / "model.safetensors").exists()
