"""RoPE periods: by the formula in every library, and as files state them."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from no_time_to_train.configs.encoders import DINOV3_CONFIGS, resolve_encoder
from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.jax_models.vit import DinoV3ViT
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.formats.stored_tensor import from_array
from no_time_to_train.weights.rope import periods_as_json, rope_periods
from no_time_to_train.weights.source import read_source
from tests.golden_files import golden

HEADS = sorted({entry.embed_dim // entry.num_heads for entry in DINOV3_CONFIGS.values() if entry.num_heads})


@pytest.mark.parametrize("base", [100.0, 50.0])
@pytest.mark.parametrize("head_dim", HEADS)
def test_the_formula_is_metas(head_dim: int, base: float) -> None:
    """Meta computes powers in float32; of the released heads each is correctly rounded there, too."""
    quarter = head_dim // 4
    theirs = base ** (2 * torch.arange(quarter, dtype=torch.float32) / (head_dim // 2))
    assert np.array_equal(rope_periods(head_dim, base), theirs.numpy())


@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
def test_torch_and_jax_take_it() -> None:
    entry = resolve_encoder("dinov3_quickstart_tiny")
    expected = rope_periods(entry.embed_dim // entry.num_heads, 100.0)
    torch_model = build_torch_encoder(entry.name, random_init=True).model
    assert np.array_equal(torch_model.get_buffer("rope_embeddings.inv_freq").numpy(), 1 / expected)
    jax_model = DinoV3ViT(entry, entry, key=jax.random.key(0))
    assert np.array_equal(np.asarray(jax_model.rope_periods), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_metadata_keeps_every_bit(dtype: type, tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp_released"), tmp_path / "hf", "hf")
    periods: np.ndarray = rope_periods(32, 100.0).astype(dtype)
    stated = {"rope_periods": periods_as_json(from_array(periods))}
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata=stated)
    found = read_source(folder).rope_periods
    assert found is not None
    assert found.dtype == dtype
    assert found.array().tobytes() == periods.tobytes()
