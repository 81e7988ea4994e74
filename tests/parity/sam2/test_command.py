"""`ntt compare` of a SAM2: what can be compared with what, what it prints, and how it ends."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from no_time_to_train.cli import main
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.runtime.onnx_session import IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE
from tests.golden_files import golden
from tests.parity.planted import scale_in_file

QUICKSTART = Path(__file__).parents[3] / "checkpoints" / "quickstart"
ONE = ("--random", "1")


@pytest.fixture(scope="module")
def wrong(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export with one of its weights times 1.01."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("wrong") / "onnx")
    scale_in_file(folder, "vision_encoder.backbone.blocks.3.mlp.proj_out.weight", 1.01)
    return folder


def told(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> dict[str, Any]:
    assert main(["compare", *args, "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["ok"] is (status == 0)
    return result


def test_weights_alone_are_compared_in_all_backends(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = told(capsys, str(weights), "--batch-size", "2", "--random", "2")
    assert result["encoder"] == "tiny_sam2"
    assert [(one["name"], one["precision"]) for one in result["backends"]] == [
        *(("torch", "fp32"), ("eqx", "fp32"), ("onnx", "fp32"))
    ]
    assert len({one["fingerprint"] for one in result["backends"]}) == 3
    (case,) = result["cases"]
    assert case["title"] == "128x128, batch 2: noise 1, noise 2"
    assert [pair["pair"] for pair in case["pairs"]] == ["torch-eqx", "torch-onnx", "eqx-onnx"]
    for pair in case["pairs"]:
        for output in ("stride4", "stride8", "stride16", "predicted_iou", "mask_logits", "object_score"):
            # fp32 noise is below 2e-6 here, in numbers up to 3.
            assert pair[output]["max_abs"] <= 1e-5
        assert pair["masks"]["total_iou"] == pair["masks"]["least_iou"] == 1.0
        assert pair["masks"]["pixels"] > 1000


def test_a_name_and_a_photograph(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A released name takes weights of its sizes only; torch may stand twice."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    result = told(capsys, "--weights", str(weights), str(weights), "--image", str(tmp_path / "photo.png"))
    (case,) = result["cases"]
    assert case["title"] == "128x128, batch 1: photo.png"
    assert [(pair["pair"], pair["stride4"]["max_abs"]) for pair in case["pairs"]] == [("torch-torch2", 0.0)]
    assert main(["compare", "sam2_hiera_tiny", "--weights", str(weights)]) == 2
    assert "expected sam2_hiera_tiny" in capsys.readouterr().err


def test_a_fault_is_named_and_ends_in_1(weights: Path, wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--weights", str(weights), "--onnx", str(wrong), *ONE)
    assert main(["compare", *given, "--block-debug"]) == 1
    out = capsys.readouterr().out
    assert "FAIL 128x128, batch 1: noise 1" in out
    assert "onnx first drifts at block 3, mlp_raw: the stage itself errs by" in out
    assert "no other stage is at fault" in out
    rows = [line.split() for line in out.splitlines()]
    header = next(row for row in rows if row[:1] == ["block"])
    assert header[1:] == "input attn_in attn_raw post_attn mlp_in mlp_raw output".split()
    for stage in ("embedding", "neck_stride4", "neck_stride8", "neck_stride16", "predicted_iou", "mask_logits"):
        assert [stage] in [row[:1] for row in rows]
    marked = next(row for row in rows if row[:1] == ["3"])
    assert [index for index, word in enumerate(marked) if word.endswith("!")] == [2 * 6]
    # Without stages there is still a verdict, and no tolerance is too strict or too lax to be set.
    assert main(["compare", *given]) == 1
    assert "torch-onnx drift apart: embeddings by" in capsys.readouterr().out
    (case,) = told(capsys, *given, "--tolerance", "1.0")["cases"]
    assert case["pairs"][0]["masks"]["total_iou"] < 1


@pytest.fixture(scope="module")
def less_precise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the shipped model, whose masks mean something."""
    folder = tmp_path_factory.mktemp("less_precise")
    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
    return {
        each: export_onnx(QUICKSTART / "sam2", output=folder / each, precision=each, verify=False)
        for each in precisions
    }


def test_masks_of_less_precise_files(less_precise: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    files = map(str, less_precise.values())
    result = told(capsys, "--weights", str(QUICKSTART / "sam2"), "--onnx", *files, *ONE, "--block-debug")
    assert [one["precision"] for one in result["backends"]] == ["fp32", "fp16", "int8"]
    (case,) = result["cases"]
    by_half, by_bytes, _ = case["pairs"]
    assert by_half["expected"].startswith("cosines of at least 0.9999, numbers within 0.005 of the largest")
    assert by_bytes["expected"].endswith("an IoU of all masks together of at least 0.8")
    assert 1 > by_half["masks"]["total_iou"] > by_bytes["masks"]["total_iou"] > 0.9
    assert {stage["stage"] for stage in case["blocks"] if stage["own_error"] is None} == set()


def test_other_masks_fail(less_precise: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """int8's verdict is lax, and still none that any masks pass."""
    other = shutil.copytree(QUICKSTART / "sam2", tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    for index in (1, 2, 3):
        name = f"mask_decoder.output_hypernetworks_mlps.{index}.proj_out.bias"
        tensors[name] = tensors[name] + 0.3
    save_file(tensors, other / "model.safetensors")
    (case,) = told(capsys, "--weights", str(other), "--onnx", str(less_precise["int8"]), *ONE, status=1)["cases"]
    (pair,) = case["pairs"]
    assert min(pair[level]["least_cosine"] for level in ("stride4", "stride8", "stride16")) > 0.99
    assert pair["masks"]["total_iou"] < 0.8


def test_report(weights: Path, wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compare", str(weights), "--onnx", str(wrong), *ONE]
    assert main([*given, "--report", str(tmp_path / "report")]) == 1
    (case,) = json.loads((tmp_path / "report" / "parity.json").read_text())["cases"]
    assert (case["first_drift"]["block"], case["first_drift"]["stage"]) == (3, "mlp_raw")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "onnx first drifts at block 3, mlp_raw" in page
    for words in ("embeddings, stride 16", "mask logits", "of all together", "neck_stride8"):
        assert words in page
    assert sorted(path.name for path in (tmp_path / "report").glob("*.png")) == [
        *("128x128-batch1-0-features.png", "128x128-batch1-0-torch-onnx-cosine.png"),
        "128x128-batch1-0-torch-onnx-stages.png",
    ]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--weights", "{sam2}", "--onnx", "{encoder_onnx}"], "{sam2} is a SAM2, {encoder_onnx} is not"),
        (["--weights", "{encoder}", "--onnx", "{onnx}"], "{onnx} is a SAM2, {encoder} is not"),
        (["--weights", "{encoder}", "{sam2}"], "compare a SAM2 with SAM2s, and an encoder with encoders"),
        (["dinov3_small", "--weights", "{sam2}"], "{sam2} is a SAM2, dinov3_small is not"),
        (["sam2_hiera_tiny", "--weights", "{encoder}"], "sam2_hiera_tiny is a SAM2, {encoder} is not"),
        (["sam2_tiny", "--weights", "{sam2}"], "no SAM2 is named 'sam2_tiny' (did you mean sam2_hiera_tiny?)"),
        (["facebook/sam2-hiera-tiny"], "neither a file nor a released SAM2 (did you mean sam2_hiera_tiny?)"),
        (["sam2_hiera_tiny"], "no weights at checkpoints/sam2_hiera_tiny.pt (ntt fetch sam2_hiera_tiny"),
        (["sam2_hiera_tiny", "--weights", "nowhere.pt"], "nowhere.pt"),
        (["sam2_hiera_tiny", "--onnx", "{onnx}"], "no weights at checkpoints/sam2_hiera_tiny.pt"),
        (["--onnx", "{onnx}"], "1 SAM2s were named, expected two or more"),
        (["--weights", "{sam2}", "--onnx", "nowhere"], "there is no nowhere/vision_encoder.onnx"),
        (["--weights", "{sam2}", "--onnx", "{half}"], "prompt_encoder_mask_decoder.onnx (name a folder that"),
        (["--weights", "{sam2}", "--onnx", "{damaged}"], "vision_encoder.onnx is not a complete ONNX file"),
        (["--weights", "{sam2}", "--onnx", "{others}"], "next to it takes"),
        (["--weights", "{sam2}", "{quickstart}"], "images of 128x128, torch2 takes 192x192"),
        (["{sam2}", "--image-size", "224x224"], "a SAM2 of 128 pixels does not take images of 224x224"),
        (["{sam2}", "--image", "nowhere.png"], "nowhere.png"),
        (["{sam2}", "--eqx", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_bad_input(
    args: list[str],
    expected: str,
    weights: Path,
    exported: Path,
    less_precise: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder_onnx = tmp_path / "encoder_onnx"
    for folder in ("half", "damaged", "others", "encoder_onnx"):
        (tmp_path / folder).mkdir()
    (encoder_onnx / "model.onnx").write_bytes(b"no graph")
    shutil.copy(exported / IMAGE_ENCODER_FILE, tmp_path / "damaged")
    (tmp_path / "damaged" / IMAGE_ENCODER_FILE).write_bytes(b"no graph")
    if "{half}" in args:
        shutil.copytree(exported, tmp_path / "half", dirs_exist_ok=True)
        (tmp_path / "half" / PROMPT_DECODER_FILE).unlink()
    if "{others}" in args:
        shutil.copytree(exported, tmp_path / "others", dirs_exist_ok=True)
        for file in less_precise["int8"].glob("prompt_*"):
            shutil.copy(file, tmp_path / "others")
    names = {name: str(tmp_path / name) for name in ("half", "damaged", "others", "encoder_onnx")}
    names |= {"sam2": str(weights), "onnx": str(exported), "quickstart": str(QUICKSTART / "sam2")}
    names["encoder"] = str(golden("vit_mlp_untied"))
    assert main(["compare", *(arg.format(**names) for arg in args), *([] if "--image" in args else ONE)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected.format(**names) in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
