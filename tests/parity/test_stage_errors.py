"""Drift is pinned to the block and stage that causes it, in all backends, and nowhere else."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch
from safetensors.torch import load_file

from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder, build_encoder_from_checkpoint
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.parity import compare_features
from no_time_to_train.parity.backends import backend_of
from tests.golden_files import NAMES, golden
from tests.parity.planted import change_eps, equinox_faults, replace_gelu, scale_in_file, scaled, with_eps

# Meta's words for the stages, and the project's.
STAGES = {
    "in": "input",
    "norm1": "attn_in",
    "attn": "attn_raw",
    "ls1": "attn_scaled",
    "attn_residual": "post_attn",
    "norm2": "mlp_in",
    "mlp": "mlp_raw",
    "ls2": "mlp_scaled",
    "out": "output",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "convnext"])
def test_the_stages_are_those_of_metas_code(name: str, tmp_path: Path) -> None:
    truth = load_file(golden(name, ".safetensors", whole=True))
    if not any(".blocks." in key for key in truth):
        pytest.skip(f"the stages of {name} lie in shared/golden alone, which is not beside this checkout")
    pixels = load_file(golden("inputs", ".safetensors"))["64x64"].numpy()
    exports = [export_onnx(golden(name), output=tmp_path / str(opset), opset=opset) for opset in (23, 17)]
    encoders = [build_encoder_from_checkpoint(golden(name)), load_eqx_encoder(golden(name)), *exports]
    for encoder in encoders:
        trace = backend_of(encoder).trace(pixels)
        blocks = {key.split(".")[2] for key in truth if key.startswith("64x64.blocks.")}
        for block in blocks:
            for theirs, ours in STAGES.items():
                expected = truth[f"64x64.blocks.{block}.{theirs}"]
                found = trace[f"blocks.{block}.{ours}"].reshape(expected.shape)
                # 2e-5 is what tells noise from mistakes in final tokens, which are of this size.
                assert (found - expected).abs().max() <= 2e-5 * max(1.0, expected.abs().max().item())
        assert list(trace)[-1] == "final_norm"


@pytest.mark.parametrize("name", ["vit_mlp_untied", "vit_swiglu64_untied", "convnext"])
def test_every_fault_planted_in_equinox_is_found(name: str) -> None:
    encoder, model = build_encoder_from_checkpoint(golden(name)), load_eqx_encoder(golden(name))
    pixels = torch.randn(2, 3, 64, 64)
    faults = list(equinox_faults(model))
    assert len(faults) >= 37
    for fault in faults:
        if name == "vit_swiglu64_untied" and fault.block != 1:
            continue
        report = compare_features(encoder, fault.model, pixel_values=pixels)
        drift = report.first_drift
        assert drift is not None, fault.what
        assert (drift.block, drift.stage) == (fault.block, fault.stage), fault.what
        assert len(report.faults) == 1
        assert not report.ok
        assert str(report).startswith(f"eqx first drifts at {drift.place}: the stage itself errs by ")
        assert str(report).endswith("no other stage is at fault")


def test_faults_of_the_rope_base() -> None:
    """It is shared by all blocks: the first is named, and what is behind it."""
    encoder, model = build_encoder_from_checkpoint(golden("vit_mlp")), load_eqx_encoder(golden("vit_mlp"))
    report = compare_features(encoder, scaled(model, "rope_periods"), pixel_values=torch.randn(1, 3, 96, 64))
    assert report.first_drift is not None
    assert (report.first_drift.block, report.first_drift.stage) == (0, "attn_raw")
    assert [(fault.block, fault.stage) for fault in report.faults] == [(block, "attn_raw") for block in range(3)]
    assert "so do all 3 blocks there: look at what they share, the RoPE periods" in str(report)


@pytest.mark.parametrize("opset", [23, 17])
def test_every_fault_planted_in_a_file_is_found(opset: int, tmp_path: Path) -> None:
    encoder = build_encoder_from_checkpoint(golden("vit_mlp_untied"))
    sound = export_onnx(golden("vit_mlp_untied"), output=tmp_path / "sound", opset=opset)
    pixels = torch.randn(2, 3, 64, 64)
    weights = (
        ("layer.{}.attention.o_proj.weight", "attn_raw"),
        ("layer.{}.attention.k_proj.weight", "attn_raw"),
        ("layer.{}.layer_scale1.lambda1", "attn_scaled"),
        ("layer.{}.mlp.up_proj.weight", "mlp_raw"),
        ("layer.{}.norm2.weight", "mlp_in"),
    )
    faults: list[tuple[int, str, Callable[[Path], None]]] = []
    for block in range(3) if opset == 23 else (1,):
        for pattern, stage in weights:
            name = pattern.format(block)
            faults.append((block, stage, partial(scale_in_file, name=name)))
        faults.append((block, "attn_in", partial(change_eps, index=2 * block, eps=1e-4)))
        if opset == 23:
            faults.append((block, "mlp_raw", partial(replace_gelu, index=block)))
    for index, (block, stage, plant) in enumerate(faults):
        folder = tmp_path / str(index)
        shutil.copytree(sound, folder)
        plant(folder)
        report = compare_features(encoder, folder, pixel_values=pixels)
        assert [(fault.block, fault.stage) for fault in report.faults] == [(block, stage)]
        assert report.first_drift is not None
        assert report.first_drift.backend == "onnx"


@pytest.mark.parametrize("name", NAMES)
def test_sound_encoders_raise_no_alarm(name: str, tmp_path: Path) -> None:
    """Five backends of six encoders: 30 runs in all."""
    encoders = [
        build_encoder_from_checkpoint(golden(name)),
        load_eqx_encoder(golden(name)),
        export_onnx(golden(name), output=tmp_path / "onnx"),
        export_onnx(golden(name), output=tmp_path / "onnx17", opset=17),
        export_onnx(golden(name), output=tmp_path / "half", precision="fp16"),
        export_onnx(golden(name), output=tmp_path / "int8", precision="int8"),
    ]
    for shape in ((3, 3, 48, 96),):
        report = compare_features(*encoders, pixel_values=torch.randn(shape))
        assert report.first_drift is None
        assert report.ok, str(report)
        assert {drift.backend for drift in report.blocks} == {"eqx", "onnx", "onnx2", "onnx3", "onnx4"}
        assert all(drift.excess is not None and drift.excess < 0.8 for drift in report.blocks)
        stages = [(drift.block, drift.stage) for drift in report.blocks if drift.backend == "eqx"]
        assert stages[-1][1] == "final_norm"
        assert all(
            [(drift.block, drift.stage) for drift in report.blocks if drift.backend == backend] == stages
            for backend in ("onnx", "onnx2", "onnx3", "onnx4")
        )
        for before, drift in zip(report.blocks, report.blocks[1:], strict=False):
            if drift.growth is not None:
                assert drift.growth == drift.max_abs / before.max_abs


def test_without_torch_among_them(tmp_path: Path) -> None:
    """The stages are held against torch all the same, with the weights of what is there."""
    model = load_eqx_encoder(golden("vit_mlp"))
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx")
    pixels = torch.randn(1, 3, 64, 64)
    assert compare_features(model, folder, pixel_values=pixels).ok
    # A wrong weight in the reference is wrong in what torch holds it against too: the other one differs from both.
    report = compare_features(scaled(model, "blocks.1.mlp.up_proj.weight"), folder, pixel_values=pixels)
    assert [(fault.backend, fault.block, fault.stage) for fault in report.faults] == [("onnx", 1, "mlp_raw")]
    # A wrong setting is not in the weights: the reference itself is at fault.
    report = compare_features(with_eps(model, "blocks.1.norm2", 1e-4), folder, pixel_values=pixels)
    assert [(fault.backend, fault.block, fault.stage) for fault in report.faults] == [("eqx", 1, "mlp_in")]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    change_eps(other, 3, 1e-4)
    report = compare_features(folder, other, pixel_values=pixels)
    assert [(fault.backend, fault.block, fault.stage) for fault in report.faults] == [("onnx2", 1, "mlp_in")]


def test_where_no_weights_are_at_hand(tmp_path: Path) -> None:
    """int8 files hold their own weights alone: drift is shown, and nobody is blamed."""
    folders = [
        export_onnx(golden("vit_mlp"), output=tmp_path / str(opset), precision="int8", opset=opset)
        for opset in (23, 17)
    ]
    report = compare_features(*folders, pixel_values=torch.randn(1, 3, 64, 64))
    assert report.first_drift is None
    assert {drift.backend for drift in report.blocks} == {"onnx2"}
    assert all(drift.own_error is None and drift.max_abs >= 0 for drift in report.blocks)


def test_files_of_a_fixed_batch(tmp_path: Path) -> None:
    folder = export_onnx(golden("convnext"), output=tmp_path / "onnx", batch_size=2, image_size=(64, 96))
    encoder = build_encoder_from_checkpoint(golden("convnext"))
    report = compare_features(encoder, folder, pixel_values=torch.randn(3, 3, 64, 96))
    assert report.ok, str(report)
    assert len(report.blocks) > 40


def test_two_checkpoints_of_torch() -> None:
    """DINOv2 too: a fault is found in whatever torch runs."""
    pixels = torch.randn(1, 3, 56, 84)
    with pytest.warns(UserWarning, match="random weights"):
        one, other = (build_encoder("dinov2_small", random_init=True) for _ in range(2))
    assert isinstance(other, FeatureEncoder)
    assert compare_features(one, other, pixel_values=pixels).ok
    with torch.no_grad():
        other.model.get_parameter("encoder.layer.4.attention.v_proj.weight").mul_(1.001)
    report = compare_features(one, other, pixel_values=pixels)
    assert report.first_drift is not None
    assert (report.first_drift.backend, report.first_drift.block, report.first_drift.stage) == ("torch2", 4, "attn_raw")


def test_encoders_in_bfloat16(tmp_path: Path) -> None:
    """Each is judged by what its own precision rounds."""
    encoder = build_encoder_from_checkpoint(golden("vit_mlp"))
    half = build_encoder_from_checkpoint(golden("vit_mlp"), dtype=torch.bfloat16)
    model = load_eqx_encoder(golden("vit_mlp"), dtype=jnp.bfloat16)
    report = compare_features(encoder, half, model, pixel_values=torch.randn(1, 3, 64, 64))
    assert report.ok, str(report)
    assert [pair.expected for pair in report.pairs] == ["a token cosine of at least 0.995"] * 3
    wrong = compare_features(encoder, with_eps(model, "blocks.0.norm1", 1e-1), pixel_values=torch.randn(1, 3, 64, 64))
    assert wrong.first_drift is not None
    assert (wrong.first_drift.block, wrong.first_drift.stage) == (0, "attn_in")
