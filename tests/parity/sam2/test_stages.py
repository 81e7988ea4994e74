"""Drift of a SAM2 is pinned to the stage that causes it, in the image encoder, the neck and the decoder."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.export.verify import natural_noise, normalise
from no_time_to_train.jax_models.sam2 import Sam2, load_eqx_sam2
from no_time_to_train.jax_models.sam2.load import read_sam2_source
from no_time_to_train.parity.sam2.compare import compare_sam2, sam2_backend
from no_time_to_train.parity.sam2.torch_models import load_torch_sam2
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from tests.parity.planted import scaled
from tests.tiny import IMAGE_SIZE, STAGES

BLOCK = ["input", "attn_in", "attn_raw", "post_attn", "mlp_in", "mlp_raw", "output"]
AFTER = ["neck_stride4", "neck_stride8", "neck_stride16", "predicted_iou", "mask_logits", "object_score"]
ENCODER, DECODER = "vision_encoder.backbone.", "mask_decoder."
# What is scaled, and where that shows. Block 1 is the first of a stage, 2 attends to the whole image. Each stage is
# judged on its own input, so that several faults at a time are told apart.
FAULTS = (
    {
        f"{ENCODER}patch_embed.projection.weight": (-1, "embedding"),
        f"{ENCODER}blocks.0.layer_norm1.weight": (0, "attn_in"),
        f"{ENCODER}blocks.1.attn.qkv.weight": (1, "attn_raw"),
        f"{ENCODER}blocks.1.proj.weight": (1, "post_attn"),
        f"{ENCODER}blocks.4.layer_norm2.bias": (4, "mlp_in"),
        f"{ENCODER}blocks.5.mlp.proj_in.weight": (5, "mlp_raw"),
        "vision_encoder.neck.convs.3.weight": (7, "neck_stride4"),
        "vision_encoder.neck.convs.2.weight": (8, "neck_stride8"),
        "vision_encoder.neck.convs.0.weight": (9, "neck_stride16"),
        f"{DECODER}iou_prediction_head.proj_out.weight": (10, "predicted_iou"),
        f"{DECODER}output_hypernetworks_mlps.2.proj_out.weight": (11, "mask_logits"),
        f"{DECODER}pred_obj_score_head.proj_in.weight": (12, "object_score"),
    },
    {
        f"{ENCODER}pos_embed": (-1, "embedding"),
        f"{ENCODER}blocks.2.attn.proj.bias": (2, "attn_raw"),
        f"{ENCODER}blocks.6.mlp.proj_out.bias": (6, "mlp_raw"),
        f"{DECODER}conv_s0.weight": (7, "neck_stride4"),
        f"{DECODER}conv_s1.bias": (8, "neck_stride8"),
        "no_memory_embedding": (9, "neck_stride16"),
        f"{DECODER}upscale_conv1.weight": (11, "mask_logits"),
    },
    # What prompts are embedded by goes into all that the decoder gives; of random weights the IoU does not show it.
    {
        f"{ENCODER}pos_embed_window": (-1, "embedding"),
        "prompt_encoder.point_embed.weight": (11, "mask_logits"),
        "prompt_encoder.not_a_point_embed.weight": (12, "object_score"),
    },
)


def noise() -> np.ndarray:
    # As many at a time as in test_command.py: the same program is compiled once.
    return normalise(natural_noise((2, 3, IMAGE_SIZE, IMAGE_SIZE), seed=1), IMAGE_MEAN, IMAGE_STD)


@pytest.fixture(scope="module")
def reference(weights: Path) -> Sam2Predictor:
    return load_torch_sam2(read_sam2_source(weights))


@pytest.fixture(scope="module")
def model(weights: Path) -> Sam2:
    return load_eqx_sam2(weights)


def test_backends_have_the_same_stages(reference: Sam2Predictor, model: Sam2, exported: Path) -> None:
    """Names, order and values; the torch model is left without hooks."""
    blocks = [f"blocks.{index}.{stage}" for index in range(sum(STAGES)) for stage in BLOCK]
    pixels = noise()[:1]
    expected, *others = (sam2_backend(one).trace(pixels) for one in (reference, model, exported))
    assert list(expected) == ["embedding", *blocks, *AFTER]
    assert not any(module._forward_hooks for module in reference.modules())
    for trace in others:
        assert list(trace) == list(expected)
        for name, values in expected.items():
            apart = (trace[name].reshape(values.shape) - values).abs().max()
            # fp32 noise is below 2e-6 here.
            assert apart <= 1e-5 * max(1.0, values.abs().max().item()), name


@pytest.mark.parametrize("faults", FAULTS)
def test_planted_faults_are_found(faults: dict[str, tuple[int, str]], reference: Sam2Predictor, model: Sam2) -> None:
    report = compare_sam2(reference, functools.reduce(scaled, faults, model), pixel_values=torch.from_numpy(noise()))
    assert [(drift.block, drift.stage) for drift in report.faults] == list(faults.values())
    assert not report.ok
    assert str(report).startswith("eqx first drifts at the embedding: the stage itself errs by ")


def test_without_torch_stages_are_shown_and_not_judged(model: Sam2, exported: Path) -> None:
    """An Equinox model alone does not tell torch its weights; the folder of an export does."""
    report = compare_sam2(model, scaled(model, f"{ENCODER}blocks.0.mlp.proj_out.weight"), pixel_values=noise())
    assert [pair.ok for pair in report.pairs] == [False]
    assert {drift.backend for drift in report.blocks} == {"eqx2"}
    assert all(drift.excess is None for drift in report.blocks)
    judged = compare_sam2(model, exported, pixel_values=noise())
    assert judged.ok
    assert {drift.backend for drift in judged.blocks} == {"eqx", "onnx"}
    assert all(drift.excess is not None for drift in judged.blocks)
