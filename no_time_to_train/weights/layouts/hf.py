"""The names of tensors in Hugging Face folders.

The Hub's files and transformers' `save_pretrained` have names that all of its versions open. Since 5.4 transformers'
modules have other names, by which earlier versions of this package wrote files. transformers 4 ignores the tensors of
such a file and initializes random ones.
"""

from dataclasses import replace

from no_time_to_train.weights.layouts.base import ATTENTION, Layout, Rule, identity, weight_and_bias

_HF_VIT_TOP: dict[str, Rule] = {
    **identity("embeddings.cls_token", "embeddings.register_tokens", "embeddings.mask_token"),
    **weight_and_bias({"embeddings.patch_embeddings": "embeddings.patch_embeddings", "norm": "norm"}),
}
_HF_VIT_LEAF: dict[str, Rule] = {
    **weight_and_bias(
        {
            name: name
            for name in (
                "norm1",
                *ATTENTION,
                "attention.o_proj",
                "norm2",
                "mlp.up_proj",
                "mlp.down_proj",
                "mlp.gate_proj",
            )
        }
    ),
    **identity("layer_scale1.lambda1", "layer_scale2.lambda1"),
}

MODULES_DINOV3_VIT = Layout(
    name="transformers DINOv3 ViT, by its modules",
    family="dinov3_vit",
    signature=("model.layer.0.attention.q_proj.weight", "embeddings.patch_embeddings.weight"),
    top=_HF_VIT_TOP,
    block=r"model\.layer\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf=_HF_VIT_LEAF,
)
HF_DINOV3_VIT = Layout(
    name="transformers DINOv3 ViT",
    family="dinov3_vit",
    signature=("layer.0.attention.q_proj.weight", "embeddings.patch_embeddings.weight"),
    top=_HF_VIT_TOP,
    block=r"layer\.(\d+)\.",
    block_target=r"model.layer.\1.",
    leaf=_HF_VIT_LEAF,
)

_HF_CONVNEXT_LEAF: dict[str, Rule] = {
    "gamma": "gamma",
    **weight_and_bias({name: name for name in ("depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2")}),
}

MODULES_DINOV3_CONVNEXT = Layout(
    name="transformers DINOv3 ConvNeXt, by its modules",
    family="dinov3_convnext",
    signature=("model.stages.0.downsample_layers.0.weight",),
    top=weight_and_bias({"layer_norm": "layer_norm"}),
    block=r"model\.stages\.(\d+)\.layers\.(\d+)\.",
    block_target=r"model.stages.\1.layers.\2.",
    leaf=_HF_CONVNEXT_LEAF,
    downsample=r"model\.stages\.(\d+)\.downsample_layers\.(\d+)\.",
)
HF_DINOV3_CONVNEXT = Layout(
    name="transformers DINOv3 ConvNeXt",
    family="dinov3_convnext",
    signature=("stages.0.downsample_layers.0.weight",),
    top=weight_and_bias({"layer_norm": "layer_norm"}),
    block=r"stages\.(\d+)\.layers\.(\d+)\.",
    block_target=r"model.stages.\1.layers.\2.",
    leaf=_HF_CONVNEXT_LEAF,
    downsample=r"stages\.(\d+)\.downsample_layers\.(\d+)\.",
)

_HUB_DINOV2_LEAF: dict[str, Rule] = {
    **identity("layer_scale1.lambda1", "layer_scale2.lambda1"),
    **weight_and_bias(
        {
            "norm1": "norm1",
            "attention.attention.query": "attention.q_proj",
            "attention.attention.key": "attention.k_proj",
            "attention.attention.value": "attention.v_proj",
            "attention.output.dense": "attention.o_proj",
            "norm2": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            "mlp.weights_in": ("mlp.gate_proj", "mlp.up_proj"),
            "mlp.weights_out": "mlp.down_proj",
        }
    ),
}
# What is written. Files by the names of transformers' modules are read too.
HUB_DINOV2 = Layout(
    name="transformers DINOv2",
    family="dinov2",
    signature=("embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight"),
    top={
        **identity(
            "embeddings.cls_token",
            "embeddings.position_embeddings",
            "embeddings.register_tokens",
            "embeddings.mask_token",
        ),
        **weight_and_bias(
            {
                "embeddings.patch_embeddings.projection": "embeddings.patch_embeddings.projection",
                "layernorm": "layernorm",
            }
        ),
    },
    block=r"encoder\.layer\.(\d+)\.",
    block_target=r"encoder.layer.\1.",
    leaf=_HUB_DINOV2_LEAF,
)
HF_DINOV2 = replace(HUB_DINOV2, leaf={**_HF_VIT_LEAF, **_HUB_DINOV2_LEAF})

# By which names files are written.
HUB_LAYOUTS = {"dinov3_vit": HF_DINOV3_VIT, "dinov3_convnext": HF_DINOV3_CONVNEXT, "dinov2": HUB_DINOV2}
