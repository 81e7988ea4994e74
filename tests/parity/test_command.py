"""`ntt compare`: what can be compared with what, what it prints, and how it ends."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from no_time_to_train.cli import main
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models import load_eqx_encoder, save_eqx_encoder
from tests.golden_files import golden
from tests.parity.planted import scale_in_file

SIZE = ("--image-size", "64x64")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(golden("vit_mlp_untied"), output=tmp_path_factory.mktemp("export") / "onnx")


def told(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> dict[str, Any]:
    assert main(["compare", *args, "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["ok"] is (status == 0)
    return result


def test_weights_alone_are_compared_in_all_backends(capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(golden("vit_mlp_untied"))
    result = told(capsys, "--weights", weights, "--image-size", "64x64", "48x96", "--batch-size", "1", "3")
    assert [backend["name"] for backend in result["backends"]] == ["torch", "eqx", "onnx"]
    assert [case["title"] for case in result["cases"]] == [
        f"{size}, {batch}"
        for size in ("64x64", "48x96")
        for batch in ("batch 1: noise 1", "batch 1: noise 2", "batch 3: noise 1, noise 2, noise 1")
    ]
    assert result["cases"][-1]["shape"] == [3, 3, 48, 96]
    assert all(case["blocks"] == [] for case in result["cases"])
    assert {"torch", "jax", "onnxruntime", "python"} <= result["versions"].keys()
    assert len({backend["fingerprint"] for backend in result["backends"]}) == 3


def test_any_two_of_them(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = golden("vit_mlp_untied")
    eqx = save_eqx_encoder(load_eqx_encoder(weights), tmp_path / "encoder.eqx")
    given = {"torch": ("--weights", str(weights)), "eqx": ("--eqx", str(eqx)), "onnx": ("--onnx", str(exported))}
    for one, other in (("torch", "eqx"), ("torch", "onnx"), ("eqx", "onnx")):
        result = told(capsys, *given[one], *given[other], *SIZE, "--random", "1")
        assert [pair["pair"] for case in result["cases"] for pair in case["pairs"]] == [f"{one}-{other}"]
    result = told(capsys, "--weights", str(weights), str(weights), *SIZE)
    assert result["cases"][0]["pairs"][0]["pair"] == "torch-torch2"


def test_faults_are_named_and_end_in_1(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(exported, wrong)
    scale_in_file(wrong, "layer.1.mlp.down_proj.weight", 1.01)
    given = ["--weights", str(golden("vit_mlp_untied")), "--onnx", str(wrong), *SIZE, "--random", "1"]
    result = told(capsys, *given, "--block-debug", status=1)
    assert result["cases"][0]["first_drift"]["block"] == 1
    assert result["cases"][0]["first_drift"]["stage"] == "mlp_raw"
    assert main(["compare", *given, "--block-debug"]) == 1
    out = capsys.readouterr().out
    assert "FAIL 64x64, batch 1: noise 1" in out
    assert "onnx first drifts at block 1, mlp_raw: the stage itself errs by" in out
    rows = [line.split() for line in out.splitlines()]
    header = next(row for row in rows if row[:1] == ["block"])
    assert header[1:] == "input attn_in attn_raw attn_scaled post_attn mlp_in mlp_raw mlp_scaled output".split()
    assert [row[0] for row in rows if row and row[0] in {"embedding", "0", "1", "2", "final_norm"}] == [
        *("embedding", "0", "1", "2", "final_norm")
    ]
    # Two words a stage: the difference, and by how much it grew.
    marked = next(row for row in rows if row[:1] == ["1"])
    assert [index for index, word in enumerate(marked) if word.endswith("!")] == [2 * 7]
    # Without stages there is still a verdict, and no tolerance is too strict or too lax to be set.
    assert main(["compare", *given]) == 1
    assert "torch-onnx drift apart: patches by" in capsys.readouterr().out
    assert main(["compare", *given, "--tolerance", "1.0"]) == 0
    capsys.readouterr()


def test_zeros_agree_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were within every tolerance, and exported as verified."""
    tensors = torch.load(golden("vit_mlp_untied"), weights_only=True)
    keep = ("periods", "bias_mask")
    zeros = {name: value if name.endswith(keep) else value * 0 for name, value in tensors.items()}
    torch.save(zeros, tmp_path / "zeros.pth")
    weights = str(tmp_path / "zeros.pth")
    assert main(["compare", "--weights", weights, weights, *SIZE]) == 2
    assert "torch gives zeros for every token" in capsys.readouterr().err
    assert main(["export", weights, "--output", str(tmp_path / "onnx")]) == 2
    captured = capsys.readouterr().err
    assert "tokens of zeros, which say nothing of an image" in captured
    assert "RuntimeWarning" not in captured
    assert not (tmp_path / "onnx").exists()


def test_photographs(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"a photo {index}.png")
    images = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    given = ("--weights", str(golden("vit_mlp_untied")), "--onnx", str(exported), *SIZE, "--batch-size", "2")
    result = told(capsys, *given, "--image", *images)
    assert [case["title"] for case in result["cases"]] == [
        "64x64, batch 2: a photo 0.png, a photo 1.png",
        "64x64, batch 2: a photo 2.png, a photo 0.png",
    ]


def test_a_name_finds_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """What lies under checkpoints/ is taken, and weights must be of the named encoder."""
    assert main(["compare", "--encoder", "dinov3_small"]) == 2
    assert "no weights of dinov3_small under checkpoints/" in capsys.readouterr().err
    shutil.copytree(Path(__file__).parents[2] / "checkpoints" / "quickstart", "checkpoints/quickstart")
    result = told(capsys, "--encoder", "dinov3_quickstart", *SIZE, "--random", "1")
    assert result["encoder"] == "dinov3_quickstart"
    assert result["backends"][0]["source"] == "checkpoints/quickstart/encoder"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "0 encoders were named, expected two or more"),
        (["--onnx", "{onnx}"], "1 encoders were named, expected two or more"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--weights", "{weights}", "--onnx", "nowhere"], "there is no nowhere"),
        (["--weights", "{weights}", "--eqx", "{onnx}/model.onnx"], "model.onnx"),
        (["--encoder", "dinov9", "--weights", "{weights}"], "dinov9"),
        (["--encoder", "dinov3_small", "--weights", "{weights}"], "dinov3_small"),
        (["--weights", "{weights}", "{convnext}"], "expected multiples of its patch size 16 (use 48x48)"),
        (["--weights", "{weights}", "{convnext}", "--image-size", "64"], "the encoders give tokens of other shapes"),
        (["--weights", "{weights}", "--image", "nowhere.png"], "nowhere.png"),
        (["--weights", "{weights}", "--image", "{weights}"], "vit_mlp_untied.pth"),
        (["--weights", "{weights}", "--image", "a.png", "--random", "2"], "--image and --random were both given"),
        (["--weights", "{weights}", "--random", "0"], "--random is 0"),
        (["--weights", "{weights}", "--batch-size", "1", "-3"], "--batch-size is -3"),
        (["--weights", "{weights}", "--batch-size", "two"], "two"),
        (["--weights", "{weights}", "--image-size", "64by64"], "'64by64' is not an image size"),
        (["--weights", "{weights}", "--tolerance", "-1"], "--tolerance is -1"),
        (["--weights", "{weights}", "--report", "{onnx}"], "holds no report"),
        (["--weights", "{weights}", "--weight", "x"], "weight"),
        (["--weights", "{weights}", "--image"], "image"),
    ],
)
def test_bad_input(args: list[str], expected: str, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"weights": golden("vit_mlp_untied"), "convnext": golden("convnext"), "onnx": exported}
    size = [] if "--image-size" in args or "{convnext}" not in args else ["--image-size", "50"]
    assert main(["compare", *(arg.format(**names) for arg in args), *size]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
