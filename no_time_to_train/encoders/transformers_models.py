"""From an architecture to transformers' model of it."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
)
from transformers.activations import ACT2FN

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.source import Architecture

# What a folder's config.json may decide; sizes come from the tensors.
_SETTINGS = ("layer_norm_eps", "rope_theta", "hidden_act")


def build_model(
    architecture: Architecture, *, num_heads: int, settings: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Build transformers' model of an architecture on the current default device.

    Args:
        architecture: As read from tensors, or from a registry entry.
        num_heads: Used where the architecture does not tell its heads.
        settings: A `config.json`, of which the norms' epsilon, the RoPE base and the activation are taken.

    Raises:
        WeightsFormatError: The sizes contradict each other.
    """
    heads = num_heads if architecture.num_heads is None else architecture.num_heads
    if architecture.family != "dinov3_convnext" and (heads < 1 or architecture.embed_dim % heads):
        raise WeightsFormatError(
            f"a width of {architecture.embed_dim} cannot be shared by {heads} attention heads",
            remedy="check num_attention_heads in config.json",
        )
    taken = {key: value for key, value in (settings or {}).items() if key in _SETTINGS}
    if taken.get("hidden_act", "gelu") not in ACT2FN:
        raise WeightsFormatError(
            f"the activation {taken['hidden_act']!r} is not known", remedy="correct hidden_act in config.json"
        )
    if architecture.family == "dinov3_vit":
        return _dinov3_vit(architecture, heads, taken)
    if architecture.family == "dinov3_convnext":
        return DINOv3ConvNextModel(
            DINOv3ConvNextConfig(
                hidden_sizes=list(architecture.stage_dims), depths=list(architecture.stage_depths), **taken
            )
        )
    return _dinov2(architecture, heads, taken)


def _dinov3_vit(architecture: Architecture, heads: int, settings: Mapping[str, Any]) -> PreTrainedModel:
    gated = architecture.ffn == "swiglu"
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            patch_size=architecture.patch_size,
            hidden_size=architecture.embed_dim,
            intermediate_size=architecture.ffn_dim,
            num_hidden_layers=architecture.depth,
            num_attention_heads=heads,
            num_register_tokens=architecture.num_storage_tokens,
            query_bias=architecture.query_bias,
            key_bias=architecture.key_bias,
            value_bias=architecture.query_bias,
            use_gated_mlp=gated,
            **{"hidden_act": "silu" if gated else "gelu", **settings},
        )
    )


def _dinov2(architecture: Architecture, heads: int, settings: Mapping[str, Any]) -> PreTrainedModel:
    side = math.isqrt(architecture.num_positions - 1)
    gated = architecture.ffn == "swiglu"
    # transformers gives the width of a gated network as two thirds of the ratio's, rounded up to a multiple of 8.
    ratio = architecture.ffn_dim * (3 if gated else 2) // (architecture.embed_dim * 2)
    shared: dict[str, Any] = {
        "hidden_size": architecture.embed_dim,
        "num_hidden_layers": architecture.depth,
        "num_attention_heads": heads,
        "mlp_ratio": ratio,
        "use_swiglu_ffn": gated,
        "patch_size": architecture.patch_size,
        "image_size": side * architecture.patch_size,
        "qkv_bias": architecture.query_bias,
        **settings,
    }
    if architecture.num_storage_tokens:
        return Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(num_register_tokens=architecture.num_storage_tokens, **shared)
        )
    return Dinov2Model(Dinov2Config(**shared))
