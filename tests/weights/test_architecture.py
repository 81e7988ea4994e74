"""Architectures read from shapes: every registry entry, the heads by the periods, and which entries they can be."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from no_time_to_train.configs.encoders import DINOV2_CONFIGS, ENCODER_CONFIGS, Architecture
from no_time_to_train.errors import ShapeMismatchError, WeightsFormatError
from no_time_to_train.weights.architecture import (
    candidate_encoders,
    check_complete,
    matches,
    read_architecture,
    shapes_of,
)
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, from_array
from no_time_to_train.weights.hf_config import common_dtype, model_config
from no_time_to_train.weights.layouts.dino import META_DINOV2, META_DINOV3_CONVNEXT, META_DINOV3_VIT

LAYOUTS = {layout.family: layout for layout in (META_DINOV2, META_DINOV3_CONVNEXT, META_DINOV3_VIT)}


def without_values(architecture: Architecture) -> dict[str, StoredTensor]:
    """Return an encoder's tensors, of which there are the shapes only."""
    return {
        name: StoredTensor(np.dtype(np.float32), tuple(shape), ()) for name, shape in shapes_of(architecture).items()
    }


def read(architecture: Architecture, periods: int | None = None, *, untied_norm: bool = False) -> Architecture:
    return read_architecture(
        without_values(architecture),
        LAYOUTS[architecture.family],
        "it",
        rope_periods=None if periods is None else from_array(np.ones(periods, np.float32)),
        untied_norm=untied_norm,
    )


@pytest.mark.parametrize("name", ENCODER_CONFIGS)
def test_every_entry_is_read_from_its_shapes(name: str) -> None:
    entry = ENCODER_CONFIGS[name]
    found = read(entry)
    assert found.num_heads == (0 if entry.family == "dinov3_convnext" else None)
    for field in (
        *("family", "embed_dim", "depth", "ffn", "ffn_dim", "patch_size", "num_storage_tokens"),
        *("stage_depths", "stage_dims", "query_bias", "key_bias", "num_positions", "untied_norm"),
    ):
        assert getattr(found, field) == getattr(entry, field), field
    assert entry in candidate_encoders(found)


def test_shapes_without_a_pattern_in_them() -> None:
    """All numbers differ, so that none can stand for another."""
    vit = Architecture(
        family="dinov2",
        embed_dim=24,
        depth=3,
        num_heads=2,
        ffn="swiglu",
        ffn_dim=40,
        patch_size=5,
        num_storage_tokens=7,
        key_bias=True,
        num_positions=50,
    )
    assert read(vit) == replace(vit, num_heads=None)
    # Of an odd number of stages the total stride is another power of two: 4, then 2 twice.
    convnext = Architecture(
        family="dinov3_convnext",
        embed_dim=32,
        depth=6,
        patch_size=16,
        stage_depths=(1, 3, 2),
        stage_dims=(8, 16, 32),
    )
    assert read(convnext) == convnext


def test_periods_tell_the_heads() -> None:
    small = ENCODER_CONFIGS["dinov3_small"]
    assert read(small, periods=16).num_heads == 6
    assert read(small, periods=32).num_heads == 3
    for periods in (0, 15):
        with pytest.raises(WeightsFormatError, match=f"it has {periods} RoPE periods, expected a quarter"):
            read(small, periods=periods)
    assert matches(small, read(small, periods=16))
    assert not matches(small, read(small, periods=32))


@pytest.mark.parametrize(
    ("name", "untied_norm", "expected"),
    [
        ("dinov3_large", False, ["dinov3_large", "dinov3_large_sat"]),
        ("dinov3_large", True, ["dinov3_large_sat", "dinov3_large"]),
        # Both files of the 7B carry the norm of local crops.
        ("dinov3_7b", True, ["dinov3_7b", "dinov3_7b_sat"]),
        ("dinov3_small", True, ["dinov3_small"]),
    ],
)
def test_the_satellite_model_is_told_by_its_norm(name: str, untied_norm: bool, expected: list[str]) -> None:
    found = read(ENCODER_CONFIGS[name], untied_norm=untied_norm)
    assert [entry.name for entry in candidate_encoders(found)] == expected


def test_blocks_that_cannot_be_counted() -> None:
    tensors = without_values(ENCODER_CONFIGS["dinov3_small"])
    count = len(tensors)
    name = f"model.layer.{count}.norm1.weight"
    with pytest.raises(WeightsFormatError, match=f"numbered up to {count}, and it holds only {count} tensors"):
        read_architecture(
            {name if key == "model.layer.0.norm1.weight" else key: tensor for key, tensor in tensors.items()},
            META_DINOV3_VIT,
            "it",
        )


def test_patches_are_square() -> None:
    small, name = ENCODER_CONFIGS["dinov3_small"], "embeddings.patch_embeddings.weight"
    tensors = without_values(small)
    tensors[name] = replace(tensors[name], shape=(384, 3, 16, 8))
    with pytest.raises(ShapeMismatchError, match=r"1 tensors .*\(384, 3, 16, 8\), expected \(384, 3, 8, 8\)"):
        check_complete(tensors, read_architecture(tensors, META_DINOV3_VIT, "it"), "it")


@pytest.mark.parametrize("name", DINOV2_CONFIGS)
def test_a_dinov2s_configuration_gives_its_width_back(name: str) -> None:
    entry = DINOV2_CONFIGS[name]
    config = model_config(entry, num_heads=entry.num_heads)
    assert config["mlp_ratio"] == 4
    assert config["use_swiglu_ffn"] == (name.startswith("dinov2_giant"))
    # 37 x 37 positions of 14 pixels.
    assert config["image_size"] == 518
    assert config["num_attention_heads"] == entry.num_heads


def test_the_dtype_that_all_weights_have() -> None:
    half, whole = from_array(np.zeros(2, ml_dtypes.bfloat16)), from_array(np.zeros(2, np.float32))
    numbers = from_array(np.zeros(2, np.int64))
    assert common_dtype([half, half, numbers]) == "bfloat16"
    assert common_dtype([half, whole]) == common_dtype([numbers]) == common_dtype([]) == "float32"
