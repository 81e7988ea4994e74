"""SAM2 in Equinox says what transformers' Sam2Model says: embeddings, masks, IoU, object scores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jaxtyping import Array, Float, Int
from transformers import Sam2Model

from no_time_to_train.jax_models.sam2 import ImageEmbeddings, Masks, Sam2, box_points, load_eqx_sam2
from no_time_to_train.jax_models.sam2.decoder.mask_decoder import MaskDecoder
from no_time_to_train.jax_models.sam2.hiera import bicubic_weights
from no_time_to_train.jax_models.sam2.prompt_encoder import PromptEncoder
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.proposers.sam2.weights import load_sam2
from tests.jax_models.sam2.random_models import equinox_of, random_torch_model, relative, small_config

# What was promised. fp32 noise between two backends is below 2e-6 on the shipped model.
FP32 = 1e-5
# transformers rounds positions to fp32 on its way.
FP64 = 1e-7
QUICKSTART = Path(__file__).parents[3] / "checkpoints" / "quickstart" / "sam2"
PROMPTS = 5


@eqx.filter_jit
def embed(model: Sam2, pixels: Float[Array, "B 3 S S"]) -> ImageEmbeddings:
    return model.embed(pixels)


@eqx.filter_jit
def decode(
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    embeddings: ImageEmbeddings,
    points: Float[Array, "N P 2"],
    labels: Int[Array, "N P"],
) -> tuple[Masks, Masks]:
    """Draw three masks a prompt, and a single one.

    Of a model it is given the parts that decode: those are alike in all sizes, and compiled once.
    """
    parts: Any = SimpleNamespace(prompt_encoder=prompt_encoder, mask_decoder=mask_decoder)
    three, single = (Sam2.decode(parts, embeddings, points, labels, multimask=multimask) for multimask in (True, False))
    return three, single


def differences(ours: Sam2, model: Sam2Model, dtype: Any) -> dict[str, float]:
    """Compare the two on a batch of two images, and on points and boxes on the first one."""
    side, random = ours.architecture.image_size, np.random.default_rng(0)
    pixels = random.standard_normal((2, 3, side, side)).astype(dtype)
    places = np.sort(random.uniform(0, side, (PROMPTS, 2, 2)), axis=1).astype(dtype)
    labels = np.asarray([[1, 0], [1, -10], [1, -1], [0, 1], [1, 1]])
    boxes = places.reshape(PROMPTS, 4)
    with torch.no_grad():
        embeddings: Any = model.get_image_embeddings(torch.from_numpy(pixels))
    found = embed(ours, jnp.asarray(pixels))
    measured = {
        f"embeddings.{level}": relative(got, wanted)
        for level, (got, wanted) in enumerate(zip(found, embeddings, strict=True))
    }
    mask_decoder: Any = model.mask_decoder
    mask_decoder.dynamic_multimask_via_stability = False
    stride4, stride8, coarse = (jnp.asarray(level[0].numpy()) for level in embeddings)
    for name, given, prompts in (
        ("points", {"points": places, "labels": labels}, (jnp.asarray(places), jnp.asarray(labels))),
        ("boxes", {"boxes": boxes}, box_points(jnp.asarray(boxes))),
    ):
        inputs = {f"input_{kind}": torch.from_numpy(value[None]) for kind, value in given.items()}
        drawn = decode(ours.prompt_encoder, ours.mask_decoder, (stride4, stride8, coarse), *prompts)
        for masks, kind in zip(drawn, ("three", "single"), strict=True):
            with torch.no_grad():
                wanted = model(
                    image_embeddings=[level[:1] for level in embeddings], multimask_output=kind == "three", **inputs
                )
            measured[f"{name}.{kind}.masks"] = relative(masks.logits, wanted.pred_masks[0])
            measured[f"{name}.{kind}.iou"] = relative(masks.predicted_iou, wanted.iou_scores[0])
            measured[f"{name}.{kind}.object"] = relative(masks.object_score_logits, wanted.object_score_logits[0])
    return measured


@pytest.mark.parametrize(
    "name",
    [
        "sam2_hiera_t.yaml",
        "sam2_hiera_s.yaml",
        pytest.param("sam2_hiera_b+.yaml", marks=pytest.mark.slow(reason="80 million weights")),
        pytest.param("sam2_hiera_l.yaml", marks=pytest.mark.slow(reason="224 million weights")),
    ],
)
def test_every_size_agrees_with_transformers(name: str) -> None:
    """The sizes of SAM2 and SAM2.1 are the same ones; images are smaller than 1,024 pixels, windows are padded."""
    model = random_torch_model(small_config(name, 96))
    measured = differences(equinox_of(model), model, np.float32)
    assert max(measured.values()) < FP32, measured


@pytest.mark.usefixtures("optimized")
def test_the_shipped_model_agrees_with_transformers() -> None:
    model = load_sam2(resolve_sam2_config(QUICKSTART), QUICKSTART, dtype=torch.float32, device="cpu")
    measured = differences(load_eqx_sam2(QUICKSTART), model, np.float32)
    assert max(measured.values()) < FP32, measured


def test_agrees_in_float64() -> None:
    with jax.enable_x64(True):
        model = load_sam2(resolve_sam2_config(QUICKSTART), QUICKSTART, dtype=torch.float64, device="cpu")
        for name, buffer in list(model.named_buffers()):
            module, _, leaf = name.rpartition(".")
            model.get_submodule(module).register_buffer(leaf, buffer.double())
        measured = differences(load_eqx_sam2(QUICKSTART, dtype=jnp.float64), model, np.float64)
    assert max(measured.values()) < FP64, measured


@pytest.mark.parametrize(("before", "after"), [(7, 40), (14, 56), (8, 8), (7, 5)])
def test_positions_are_interpolated_as_torch_does(before: int, after: int) -> None:
    row = torch.randn(1, 1, before, before, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(row, size=(after, after), mode="bicubic")[0, 0]
    weights = torch.from_numpy(bicubic_weights(before, after))
    # Two orders of the same sums in float64.
    assert torch.allclose(weights @ row[0, 0] @ weights.T, expected, rtol=0, atol=1e-12)
