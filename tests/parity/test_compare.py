"""Backends that agree, and backends that do not."""

import json
from pathlib import Path

import equinox as eqx
import pytest
import torch

from no_time_to_train.encoders.torch_encoder import build_encoder, build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.parity.compare import compare_features
from tests.golden_files import NAMES, golden


@pytest.mark.parametrize("name", NAMES)
def test_all_backends_agree(name: str, tmp_path: Path) -> None:
    folder = export_onnx(golden(name), output=tmp_path / "onnx")
    encoder = build_encoder_from_checkpoint(golden(name))
    for shape in ((1, 3, 64, 96), (3, 3, 96, 64)):
        pixels = torch.randn(shape)
        report = compare_features(encoder, load_eqx_encoder(golden(name)), folder, pixel_values=pixels)
        assert report.ok
        assert [pair.pair for pair in report.pairs] == ["torch-eqx", "torch-onnx", "eqx-onnx"]
        assert report.shape == shape
        for pair in report.pairs:
            assert (pair.storage is None) == (encoder.config.num_storage_tokens == 0)
            assert pair.patches.max_abs <= 1e-5  # fp32 noise on these is below 4e-6
            assert pair.cls.least_cosine > 1 - 1e-9
    told = json.loads(report.to_json())
    assert told["ok"]
    assert told["pairs"][0]["patches"]["max_abs"] == report.pairs[0].patches.max_abs


def test_small_faults_are_seen(tmp_path: Path) -> None:
    encoder, model = build_encoder_from_checkpoint(golden("vit_mlp")), load_eqx_encoder(golden("vit_mlp"))
    for where in (
        lambda tree: tree.blocks[1].attention.o_proj.weight,
        lambda tree: tree.blocks[0].mlp.up_proj.weight,
        lambda tree: tree.blocks[2].layer_scale2,
        lambda tree: tree.rope_periods,
        lambda tree: tree.cls_token,
    ):
        changed = eqx.tree_at(where, model, replace_fn=lambda leaf: leaf * 1.001)
        report = compare_features(encoder, changed, pixel_values=torch.randn(1, 3, 64, 64))
        assert not report.ok
        assert "a difference of at most" in report.pairs[0].expected


def test_less_precise_exports_are_judged_by_cosine(tmp_path: Path) -> None:
    encoder = build_encoder_from_checkpoint(golden("vit_mlp"))
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx", precision="int8")
    (pair,) = compare_features(encoder, f"onnx:{folder}", pixel_values=torch.randn(1, 3, 64, 64)).pairs
    assert pair.ok
    assert pair.expected == "a token cosine of at least 0.99"
    assert pair.patches.max_abs > 1e-4


def test_torch_against_torch() -> None:
    one, other = (build_encoder_from_checkpoint(golden(name)) for name in ("vit_mlp", "vit_mlp_untied"))
    (pair,) = compare_features(one, other, pixel_values=torch.randn(1, 3, 64, 64)).pairs
    assert (pair.pair, pair.ok) == ("torch-torch2", False)
    with pytest.raises(ConfigError, match="one encoder alone"):
        compare_features(one, pixel_values=torch.randn(1, 3, 64, 64))
    with pytest.warns(UserWarning, match="random weights"):
        large = build_encoder("dinov3_small", random_init=True)
    with pytest.raises(ConfigError, match=r"other shapes: torch \(1, 21, 64\), torch2 \(1, 21, 384\)"):
        compare_features(one, large, pixel_values=torch.randn(1, 3, 64, 64))
