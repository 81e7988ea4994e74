"""The names of leaves in Equinox files: of this package's own models, and of Equimo's.

The tables of our own models are in the order in which Equinox writes leaves: that of the modules' fields.
"""

import re
from collections.abc import Iterable

from no_time_to_train.weights.layouts.base import ATTENTION, NO_LOCAL_CROPS, PERIODS, Layout, Split, weight_and_bias

# What of the top comes behind the blocks.
_LAST = ("norm.weight", "norm.bias")

EQUINOX_DINOV3_VIT = Layout(
    name="Equinox DINOv3 ViT",
    family="dinov3_vit",
    signature=("rope_periods", "blocks.0.attention.q_proj.weight"),
    top={
        **weight_and_bias({"patch_embed": "embeddings.patch_embeddings"}),
        "cls_token": "embeddings.cls_token",
        "storage_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        "rope_periods": PERIODS,
        **weight_and_bias({"norm": "norm"}),
    },
    block=r"blocks\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf={
        **weight_and_bias({"norm1": "norm1", **{name: name for name in (*ATTENTION, "attention.o_proj")}}),
        "layer_scale1": "layer_scale1.lambda1",
        **weight_and_bias({name: name for name in ("norm2", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}),
        "layer_scale2": "layer_scale2.lambda1",
    },
)

EQUINOX_DINOV3_CONVNEXT = Layout(
    name="Equinox DINOv3 ConvNeXt",
    family="dinov3_convnext",
    signature=("stages.0.downsample.0.weight", "stages.0.blocks.0.depthwise_conv.weight"),
    top=weight_and_bias({"norm": "layer_norm"}),
    block=r"stages\.(\d+)\.blocks\.(\d+)\.",
    block_target=r"model.stages.\1.layers.\2.",
    leaf={
        **weight_and_bias(
            {
                "depthwise_conv": "depthwise_conv",
                "norm": "layer_norm",
                "pointwise_conv1": "pointwise_conv1",
                "pointwise_conv2": "pointwise_conv2",
            }
        ),
        "gamma": "gamma",
    },
    downsample=r"stages\.(\d+)\.downsample\.(\d+)\.",
)

# The names are given by `weights.eqx`, since an Equimo file holds none: after Equimo's fields and Meta's names.
EQUIMO_DINOV3_VIT = Layout(
    name="Equimo DINOv3 ViT",
    family="dinov3_vit",
    signature=("local_pos_embed.periods", "blocks.0.prenorm.weight"),
    top={
        **weight_and_bias({"patch_embed.proj": "embeddings.patch_embeddings", "norm": "norm"}),
        "cls_token": "embeddings.cls_token",
        "reg_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        "local_pos_embed.periods": PERIODS,
        "local_cls_norm.weight": NO_LOCAL_CROPS,
        "local_cls_norm.bias": NO_LOCAL_CROPS,
    },
    block=r"blocks\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf={
        **{f"attn.qkv.{part}": Split(tuple(f"{name}.{part}" for name in ATTENTION)) for part in ("weight", "bias")},
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        **weight_and_bias(
            {
                "prenorm": "norm1",
                "attn.proj": "attention.o_proj",
                "norm": "norm2",
                "mlp.fc1": "mlp.up_proj",
                "mlp.fc2": "mlp.down_proj",
                "mlp.w1": "mlp.gate_proj",
                "mlp.w2": "mlp.up_proj",
                "mlp.w3": "mlp.down_proj",
            }
        ),
    },
)


def in_order_of_leaves(names: Iterable[str], layout: Layout) -> list[str]:
    """Sort the names of one of our own models as Equinox writes its leaves.

    Examples:
        >>> names = ["norm.bias", "cls_token", "blocks.10.norm1.bias", "blocks.2.norm2.bias"]
        >>> in_order_of_leaves(names, EQUINOX_DINOV3_VIT)
        ['cls_token', 'blocks.2.norm2.bias', 'blocks.10.norm1.bias', 'norm.bias']
    """
    top, leaves = list(layout.top), list(layout.leaf)

    def place(name: str) -> tuple[int, ...]:
        if name in layout.top:
            return 2 if name in _LAST else 0, top.index(name)
        match = re.match(layout.block, name)
        if match:
            numbers = [int(number) for number in match.groups()]
            # A ConvNeXt's stage has its downsampling before its blocks.
            inner = numbers if layout.downsample is None else [numbers[0], 1, numbers[1]]
            return 1, *inner, leaves.index(name[match.end() :])
        match = re.match(layout.downsample or "", name)
        assert match is not None  # the names come from this layout
        stage, index = (int(number) for number in match.groups())
        return 1, stage, 0, index, ("weight", "bias").index(name[match.end() :])

    return sorted(names, key=place)
