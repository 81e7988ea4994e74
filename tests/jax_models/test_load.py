"""Equinox encoders: Meta's features, torch's features, and the same bytes there and back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from jaxtyping import Array, Float
from safetensors.torch import load_file, save_file

from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import (
    ImageSizeError,
    ShapeMismatchError,
    UnknownEncoderError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.jax_models import load_eqx_encoder, save_eqx_encoder
from no_time_to_train.jax_models.features import EncoderFeatures
from no_time_to_train.jax_models.load import EqxEncoder, leaf_names
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.equinox_source import read_equinox_source
from tests.golden_files import NAMES, golden
from tests.weights.stored import read_tensors

# As for torch: fp32 noise of Meta's code against fp64 is 4e-6; the mildest mistake known (tanh GELU) costs 6e-4.
TOLERANCE = 2e-5
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Multiply in float32 where a GPU would in TF32."""
    with jax.default_matmul_precision("highest"):
        yield


@eqx.filter_jit
def encode(encoder: EqxEncoder, pixels: Float[Array, "B 3 H W"]) -> EncoderFeatures:
    """Encode a batch by one program: to compile every operation by itself takes three times as long."""
    return jax.vmap(encoder)(pixels)


def largest(one: object, other: object) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["64x64", "48x96", "80x112"])
def test_agrees_with_metas_own_code(name: str, size: str) -> None:
    expected = load_file(golden(name, ".safetensors"))
    pixels = jnp.asarray(load_file(golden("inputs", ".safetensors"))[size].numpy())
    features = encode(load_eqx_encoder(golden(name)), pixels)
    assert largest(features.cls, expected[f"{size}.x_norm_clstoken"]) <= TOLERANCE
    patches = features.patches.reshape(len(pixels), -1, features.patches.shape[-1])
    assert largest(patches, expected[f"{size}.x_norm_patchtokens"]) <= TOLERANCE
    if f"{size}.x_storage_tokens" in expected:
        assert largest(features.storage, expected[f"{size}.x_storage_tokens"]) <= TOLERANCE
    else:
        assert features.storage.shape[1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_from_meta_to_equinox_and_back(name: str, tmp_path: Path) -> None:
    source = golden(name)
    hf = convert_weights(source, tmp_path / "hf", "hf")
    meta = convert_weights(hf, tmp_path / "back.pth", "meta")
    file = convert_weights(meta, tmp_path / "encoder.eqx", "equinox")
    # Bit for bit, whichever way it went.
    again = convert_weights(file, tmp_path / "again", "hf")
    assert (again / "model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    assert (again / "preprocessor_config.json").read_bytes() == (hf / "preprocessor_config.json").read_bytes()
    last = convert_weights(file, tmp_path / "last.pth", "meta")
    first, back = read_tensors(meta), read_tensors(last)
    assert first.keys() == back.keys()
    for key, tensor in first.items():
        assert tensor.dtype == back[key].dtype
        assert torch.equal(tensor, back[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_files_are_what_equinox_writes(name: str, tmp_path: Path) -> None:
    file = convert_weights(golden(name), tmp_path / "converted.eqx", "equinox")
    model = load_eqx_encoder(file, dtype=None)
    leaves = tmp_path / "leaves.eqx"
    eqx.tree_serialise_leaves(leaves, model)
    assert file.read_bytes().partition(b"\n")[2] == leaves.read_bytes()
    saved = save_eqx_encoder(model, tmp_path / "saved.eqx")
    assert saved.read_bytes().partition(b"\n")[2] == leaves.read_bytes()
    # And what Equinox reads, without this package's reader.
    with file.open("rb") as stream:
        stream.readline()
        plain = eqx.tree_deserialise_leaves(stream, eqx.filter_eval_shape(lambda: model))
    assert eqx.tree_equal(plain, model)
    report, other = inspect_weights(file), inspect_weights(saved)
    assert report.architecture == other.architecture
    assert report.layout.startswith("Equinox DINOv3")
    assert report.container == "Equinox file"


def test_both_sides_read_a_saved_encoder(tmp_path: Path) -> None:
    model = load_eqx_encoder(golden("vit_mlp_released"))
    saved = save_eqx_encoder(model, tmp_path / "saved.eqx")
    pixels = torch.randn(1, 3, 48, 64)
    encoder = build_encoder_from_checkpoint(saved)
    with torch.inference_mode():
        torch_features = encoder(pixels)
    # The periods, bf16 in Meta's file, come along: recomputed ones are 6.6e-3 off.
    assert (
        largest(eqx.filter_jit(model)(jnp.asarray(pixels[0].numpy())).patches, torch_features.patches[0]) <= TOLERANCE
    )
    original = build_encoder_from_checkpoint(golden("vit_mlp_released"))
    with torch.inference_mode():
        assert torch.equal(original(pixels).patches, torch_features.patches)


@pytest.mark.parametrize("name", ["dinov3_small", "dinov3_small_plus", "dinov3_convnext_tiny"])
@pytest.mark.usefixtures("optimized")
def test_full_size_random_encoders_agree_with_torch(name: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="random weights"):
        encoder = build_torch_encoder(name, random_init=True)
    save_file(encoder.model.state_dict(), tmp_path / "model.safetensors")
    model = eqx.filter_jit(load_eqx_encoder(name, tmp_path / "model.safetensors"))
    for size in ((224, 224), (256, 384))[: 1 if name == "dinov3_small_plus" else 2]:
        pixels = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected = encoder(pixels)
        features = model(jnp.asarray(pixels[0].numpy()))
        for ours, theirs in zip(features, expected, strict=True):
            assert ours.shape == theirs.shape[1:]
            assert ours.size == 0 or largest(ours, theirs[0]) <= TOLERANCE


def test_every_layout_loads(tmp_path: Path) -> None:
    vit = timm.create_model("vit_small_plus_patch16_dinov3", embed_dim=96, depth=2, num_heads=3, num_classes=0)
    convnext = timm.create_model(
        "convnext_tiny.dinov3_lvd1689m", depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), num_classes=0
    )
    for name, model in (("vit", vit), ("convnext", convnext)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / f"{name}.safetensors")
    modules = {
        f"model.{key}" if key.startswith("layer.") else key: value
        for key, value in load_file(
            convert_weights(golden("vit_swiglu64_untied"), tmp_path / "hf", "hf") / WEIGHTS
        ).items()
    }
    save_file(modules, tmp_path / "modules.safetensors")
    state = {f"model.{key}": value for key, value in load_file(tmp_path / "hf" / WEIGHTS).items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6"}, tmp_path / "run.ckpt")
    pixels = torch.randn(1, 3, 64, 96)
    for name in ("vit.safetensors", "convnext.safetensors", "modules.safetensors", "run.ckpt", "hf"):
        with torch.inference_mode():
            expected = build_encoder_from_checkpoint(tmp_path / name)(pixels)
        features = eqx.filter_jit(load_eqx_encoder(tmp_path / name))(jnp.asarray(pixels[0].numpy()))
        assert largest(features.patches, expected.patches[0]) <= TOLERANCE
        assert largest(features.cls, expected.cls[0]) <= TOLERANCE


def test_gradients_and_jit_go_through() -> None:
    model = load_eqx_encoder(golden("vit_mlp_released"))
    pixels = jnp.ones((3, 32, 48))

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(model: eqx.Module) -> jax.Array:
        assert callable(model)
        total: jax.Array = model(pixels).patches[0, 0, 0]
        return total

    assert float(jnp.abs(slope(model).patch_embed.weight).max()) > 0


def test_names_follow_the_fields() -> None:
    for name in NAMES:
        source = read_equinox_source(golden(name))
        assert leaf_names(load_eqx_encoder(golden(name))) == list(source.leaves)


def test_wrong_names_sizes_and_files(tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatchError, match="does not hold dinov3_small"):
        load_eqx_encoder("dinov3_small", golden("vit_mlp_released"))
    with pytest.raises(UnknownEncoderError, match="did you mean"):
        load_eqx_encoder("dinov3_smal", golden("vit_mlp_released"))
    with pytest.raises(WeightsNotFoundError, match="ntt fetch dinov3_small"):
        load_eqx_encoder("dinov3_small")
    with pytest.raises(WeightsNotFoundError, match="check the path"):
        load_eqx_encoder("nothing.pth")
    with pytest.raises(ImageSizeError, match="use 32x48"):
        load_eqx_encoder(golden("vit_mlp_released"))(jnp.zeros((3, 30, 48)))
    with pytest.warns(UserWarning, match="random weights"):
        save_file(
            build_torch_encoder("dinov2_small", random_init=True).model.state_dict(), tmp_path / "dinov2.safetensors"
        )
    with pytest.raises(WeightsFormatError, match="convert it to hf"):
        load_eqx_encoder(tmp_path / "dinov2.safetensors")


@pytest.mark.parametrize("platform", ["cuda", "garbage"])
def test_a_platform_that_is_not_there_is_named(platform: str, tmp_path: Path) -> None:
    if platform == "cuda" and any(device.platform != "cpu" for device in jax.devices()):
        pytest.skip("JAX has an accelerator here")
    code = (
        "import sys; from no_time_to_train.errors import ConfigError; from no_time_to_train.jax_models import "
        "load_eqx_encoder\ntry: load_eqx_encoder(sys.argv[1])\nexcept ConfigError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(golden("vit_mlp_released"))],
        env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(f"JAX does not start with JAX_PLATFORMS={platform}: ")
    assert said.endswith("(unset JAX_PLATFORMS, or set it to cpu)\n")
