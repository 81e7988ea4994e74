"""Literal key maps from the layouts in which encoders are found to the names of transformers' current models.

A layout is a table of top-level names and a table of the names within a block. What a table does not list is an error;
what is left out on purpose stands in it as a `Drop` with its reason.

Source: state dicts of facebookresearch/dinov3 at 6876159, facebookresearch/dinov2, transformers 5.23.0 and timm 1.0.31.
"""

import re
from collections.abc import Collection, Sequence

from no_time_to_train.configs.encoders import Family
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.layouts.base import (
    ATTENTION,
    NO_LOCAL_CROPS,
    PERIODS,
    Drop,
    Layout,
    Rule,
    Split,
    weight_and_bias,
)
from no_time_to_train.weights.layouts.equinox import EQUIMO_DINOV3_VIT, EQUINOX_DINOV3_CONVNEXT, EQUINOX_DINOV3_VIT
from no_time_to_train.weights.layouts.hf import (
    HF_DINOV2,
    HF_DINOV3_CONVNEXT,
    HF_DINOV3_VIT,
    MODULES_DINOV3_CONVNEXT,
    MODULES_DINOV3_VIT,
)

_MASKED_OUT = Drop("it zeroes the key bias, which has been applied")
_ALIAS = Drop("an alias of norm")

_META_BLOCK: dict[str, Rule] = {
    **weight_and_bias(
        {
            "norm1": "norm1",
            "attn.qkv": ATTENTION,
            "attn.proj": "attention.o_proj",
            "norm2": "norm2",
        }
    ),
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}

META_DINOV3_VIT = Layout(
    name="Meta DINOv3 ViT",
    family="dinov3_vit",
    signature=("blocks.0.attn.qkv.weight", "rope_embed.periods"),
    top={
        "cls_token": "embeddings.cls_token",
        "storage_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        **weight_and_bias({"patch_embed.proj": "embeddings.patch_embeddings", "norm": "norm"}),
        "rope_embed.periods": PERIODS,
        "local_cls_norm.weight": NO_LOCAL_CROPS,
        "local_cls_norm.bias": NO_LOCAL_CROPS,
    },
    block=r"blocks\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf={
        **_META_BLOCK,
        "attn.qkv.bias_mask": _MASKED_OUT,
        **weight_and_bias(
            {
                "mlp.fc1": "mlp.up_proj",
                "mlp.fc2": "mlp.down_proj",
                "mlp.w1": "mlp.gate_proj",
                "mlp.w2": "mlp.up_proj",
                "mlp.w3": "mlp.down_proj",
            }
        ),
    },
)

META_DINOV3_CONVNEXT = Layout(
    name="Meta DINOv3 ConvNeXt",
    family="dinov3_convnext",
    signature=("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
    top={
        **weight_and_bias({"norm": "layer_norm"}),
        "norms.3.weight": _ALIAS,
        "norms.3.bias": _ALIAS,
    },
    block=r"stages\.(\d+)\.(\d+)\.",
    block_target=r"model.stages.\1.layers.\2.",
    leaf={
        "gamma": "gamma",
        **weight_and_bias(
            {
                "dwconv": "depthwise_conv",
                "norm": "layer_norm",
                "pwconv1": "pointwise_conv1",
                "pwconv2": "pointwise_conv2",
            }
        ),
    },
    downsample=r"downsample_layers\.(\d+)\.(\d+)\.",
)

META_DINOV2 = Layout(
    name="Meta DINOv2 ViT",
    family="dinov2",
    signature=("blocks.0.attn.qkv.weight", "pos_embed"),
    top={
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        **weight_and_bias({"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}),
    },
    block=r"blocks\.(\d+)\.",
    block_target=r"encoder.layer.\1.",
    leaf={
        **_META_BLOCK,
        **weight_and_bias(
            {
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
                "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
                "mlp.w3": "mlp.down_proj",
            }
        ),
    },
)

# timm leaves out the biases of queries, keys and values where all are zero; its `_qkvb` models keep those of queries
# and values.
TIMM_DINOV3_VIT = Layout(
    name="timm DINOv3 ViT",
    family="dinov3_vit",
    signature=("blocks.0.attn.qkv.weight", "blocks.0.gamma_1"),
    top={
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        **weight_and_bias({"patch_embed.proj": "embeddings.patch_embeddings", "norm": "norm"}),
    },
    block=r"blocks\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf={
        "attn.qkv.weight": Split(tuple(f"{name}.weight" for name in ATTENTION)),
        "attn.q_bias": "attention.q_proj.bias",
        "attn.v_bias": "attention.v_proj.bias",
        "gamma_1": "layer_scale1.lambda1",
        "gamma_2": "layer_scale2.lambda1",
        **weight_and_bias(
            {
                "norm1": "norm1",
                "attn.proj": "attention.o_proj",
                "norm2": "norm2",
                "mlp.fc1": "mlp.up_proj",
                "mlp.fc1_g": "mlp.gate_proj",
                "mlp.fc1_x": "mlp.up_proj",
                "mlp.fc2": "mlp.down_proj",
            }
        ),
    },
)

TIMM_DINOV3_CONVNEXT = Layout(
    name="timm DINOv3 ConvNeXt",
    family="dinov3_convnext",
    signature=("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
    top=weight_and_bias(
        {
            "stem.0": "model.stages.0.downsample_layers.0",
            "stem.1": "model.stages.0.downsample_layers.1",
            "head.norm": "layer_norm",
        }
    ),
    block=r"stages\.(\d+)\.blocks\.(\d+)\.",
    block_target=r"model.stages.\1.layers.\2.",
    leaf={
        "gamma": "gamma",
        **weight_and_bias(
            {
                "conv_dw": "depthwise_conv",
                "norm": "layer_norm",
                "mlp.fc1": "pointwise_conv1",
                "mlp.fc2": "pointwise_conv2",
            }
        ),
    },
    downsample=r"stages\.(\d+)\.downsample\.(\d+)\.",
)

ENCODER_LAYOUTS = (
    EQUINOX_DINOV3_VIT,
    EQUINOX_DINOV3_CONVNEXT,
    EQUIMO_DINOV3_VIT,
    META_DINOV3_VIT,
    META_DINOV3_CONVNEXT,
    META_DINOV2,
    HF_DINOV3_VIT,
    MODULES_DINOV3_VIT,
    HF_DINOV3_CONVNEXT,
    MODULES_DINOV3_CONVNEXT,
    HF_DINOV2,
    TIMM_DINOV3_VIT,
    TIMM_DINOV3_CONVNEXT,
)

_SHOWN = 10
_TOKENS = ("embeddings.cls_token", "embeddings.register_tokens", "embeddings.mask_token")


def detect_layout(tensors: Collection[str], source: str) -> Layout:
    """Find the layout by the names of the tensors.

    Raises:
        WeightsFormatError: The names are those of no known layout.
    """
    for layout in ENCODER_LAYOUTS:
        if all(name in tensors for name in layout.signature):
            return layout
    shown = ", ".join(sorted(tensors)[:_SHOWN])
    raise WeightsFormatError(
        f"{source} is in no known encoder layout: its {len(tensors)} tensors begin with {shown}",
        remedy=f"known layouts are {'; '.join(layout.name for layout in ENCODER_LAYOUTS)}",
    )


def shape_in_transformers(name: str, shape: Sequence[int], family: Family) -> tuple[int, ...]:
    """Return the shape that transformers gives a tensor; other layouts add or leave out axes of length one.

    Args:
        name: By transformers.
        shape: In the file.
        family: Of the encoder.

    Examples:
        >>> shape_in_transformers("embeddings.mask_token", (1, 384), "dinov3_vit")
        (1, 1, 384)
    """
    if family == "dinov3_vit" and name in _TOKENS:
        return (1,) * (3 - len(shape)) + tuple(shape)
    if name.endswith(".bias") and tuple(shape[1:]) == (1, 1):  # of a convolution, in Equinox
        return (shape[0],)
    return tuple(shape)


def find_rule(name: str, layout: Layout) -> tuple[str, Rule | None]:
    """Return the prefix that a tensor gets, and the rule for the rest of its name; None where it has no place."""
    if name in layout.top:
        return "", layout.top[name]
    match = re.match(layout.block, name)
    if match:
        return match.expand(layout.block_target), layout.leaf.get(name[match.end() :])
    match = re.match(layout.downsample, name) if layout.downsample else None
    if match and name[match.end() :] in {"weight", "bias"}:
        return match.expand(r"model.stages.\1.downsample_layers.\2."), name[match.end() :]
    return "", None
