"""The image models of SAM2: their sizes by Meta's configuration names, and what a `config.json` says of one."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from no_time_to_train.errors import ConfigError

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
STRIDES = (4, 8, 16)


@dataclass(frozen=True)
class HieraShape:
    """Sizes of an image encoder, as its tensors show them.

    Attributes:
        embed_dim: Width of the first stage.
        stages: Number of blocks of each stage.
        background_size: Height and width of the coarse position embedding.
        window_size: Side of the first stage's windows, in tokens.
    """

    embed_dim: int
    stages: tuple[int, ...]
    background_size: tuple[int, ...]
    window_size: int


@dataclass(frozen=True)
class Sam2HieraConfig:
    """The Hiera image encoder of a SAM2 model; all else is the same in every SAM2.

    Attributes:
        embed_dim: Width of the first stage; it doubles at each of the next three.
        num_heads: Attention heads of the first stage; they double likewise.
        stages: Number of blocks of each stage.
        global_att_blocks: Blocks that attend to the whole image instead of windows.
        window_pos_embed_bkg_spatial_size: Height and width of the coarse position embedding.
        window_spec: Side of the windows at each stage, in tokens.
        image_size: Side of the square input, in pixels.

    Source: the YAML files of facebookresearch/sam2 (`sam2/configs`), and the defaults of its `Hiera`.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    image_size: int = 1024

    @property
    def shape(self) -> HieraShape:
        """Return the sizes of this configuration that tensors show."""
        return HieraShape(self.embed_dim, self.stages, self.window_pos_embed_bkg_spatial_size, self.window_spec[0])


_TINY = Sam2HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9))
_SMALL = Sam2HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13))
_BASE_PLUS = Sam2HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), window_pos_embed_bkg_spatial_size=(14, 14))
_LARGE = Sam2HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), window_spec=(8, 4, 16, 8))

SAM2_CONFIGS: Mapping[str, Sam2HieraConfig] = MappingProxyType(
    {
        "sam2_hiera_t.yaml": _TINY,
        "sam2_hiera_s.yaml": _SMALL,
        "sam2_hiera_b+.yaml": _BASE_PLUS,
        "sam2_hiera_l.yaml": _LARGE,
        "sam2.1_hiera_t.yaml": _TINY,
        "sam2.1_hiera_s.yaml": _SMALL,
        "sam2.1_hiera_b+.yaml": _BASE_PLUS,
        "sam2.1_hiera_l.yaml": _LARGE,
    }
)
"""SAM 2 and SAM 2.1 differ in their weights and in how they track through videos, not in the image model."""


@dataclass(frozen=True, kw_only=True)
class Sam2Architecture:
    """Every size of a SAM2 image model; the defaults are those of all released ones.

    Attributes:
        embed_dims: Width of each stage of the image encoder.
        stage_depths: Blocks of each stage.
        stage_heads: Attention heads of each stage.
        window_sizes: Side of the windows of each stage, in tokens.
        global_blocks: Blocks that attend to the whole image instead of windows.
        background_size: Height and width of the coarse position embedding.
        pooled_stages: Stages, after the first, whose first block halves height and width.
        mlp_ratio: Width of a block's feed-forward network, in widths of the block.
        layer_norm_eps: Of the image encoder's norms.
        top_down_levels: Levels of the neck to which the next coarser one is added.
        image_size: Side of the square input, in pixels.
        dim: Width of the neck, of prompts and of the decoder.
        num_heads: Attention heads of the decoder.
        downsample_rate: By which the decoder's attention to and from the image is narrower than `dim`.
        num_layers: Of the decoder.
        mlp_dim: Width of the decoder's feed-forward networks.
        num_masks: Masks of each prompt, without the single one.
        iou_head_dim: Width of the network that predicts a mask's IoU.
        iou_head_depth: Its layers.
    """

    embed_dims: tuple[int, ...]
    stage_depths: tuple[int, ...]
    stage_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    global_blocks: tuple[int, ...]
    background_size: tuple[int, ...]
    pooled_stages: int = 3
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    top_down_levels: tuple[int, ...] = (2, 3)
    image_size: int = 1024
    dim: int = 256
    num_heads: int = 8
    downsample_rate: int = 2
    num_layers: int = 2
    mlp_dim: int = 2048
    num_masks: int = 3
    iou_head_dim: int = 256
    iou_head_depth: int = 3

    @property
    def shape(self) -> HieraShape:
        """Return the sizes of the image encoder that tensors show."""
        return HieraShape(self.embed_dims[0], self.stage_depths, self.background_size, self.window_sizes[0])

    @property
    def embedding_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The shapes of an image's embeddings, at strides 4, 8 and 16."""
        widths = (self.dim // 8, self.dim // 4, self.dim)
        return tuple(
            (width, self.image_size // stride, self.image_size // stride)
            for width, stride in zip(widths, STRIDES, strict=True)
        )


def sam2_architecture(config: Sam2HieraConfig) -> Sam2Architecture:
    """Write out the sizes of a released model."""
    return Sam2Architecture(
        embed_dims=tuple(config.embed_dim * 2**stage for stage in range(4)),
        stage_depths=config.stages,
        stage_heads=tuple(config.num_heads * 2**stage for stage in range(4)),
        window_sizes=config.window_spec,
        global_blocks=config.global_att_blocks,
        background_size=config.window_pos_embed_bkg_spatial_size,
        image_size=config.image_size,
    )


# What the Equinox model has no other value for, by the part of config.json that states it.
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "backbone_config": {
        "hidden_act": "gelu",
        "num_channels": 3,
        "patch_kernel_size": [7, 7],
        "patch_stride": [4, 4],
        "patch_padding": [3, 3],
        "query_stride": [2, 2],
    },
    "vision_config": {"num_feature_levels": 3, "fpn_kernel_size": 1, "fpn_stride": 1, "fpn_padding": 0},
    "prompt_encoder_config": {"patch_size": 16, "num_point_embeddings": 4},
    "mask_decoder_config": {},
}


def read_sam2_architecture(settings: Mapping[str, Any], *, source: str) -> Sam2Architecture:
    """Read the sizes of a model from a `config.json` of transformers; what it leaves out is that of a tiny model.

    Args:
        settings: The file's content, of a `sam2` or a `sam2_video` model.
        source: Its name, for messages.

    Raises:
        ConfigError: It is not of SAM2, has a setting of the wrong type, or one that no SAM2 has.
    """
    if settings.get("model_type") not in ("sam2", "sam2_video"):
        raise ConfigError(
            f"{source} is of model_type {settings.get('model_type')!r}, expected sam2 or sam2_video",
            remedy="name the folder of a SAM2 model",
        )
    vision, prompt, decoder = (
        dict(settings.get(name) or {}) for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    )
    backbone = dict(vision.get("backbone_config") or {})
    parts = {
        "backbone_config": backbone,
        "vision_config": vision,
        "prompt_encoder_config": prompt,
        "mask_decoder_config": decoder,
    }
    for part, expected in _FIXED.items():
        for name, value in expected.items():
            if parts[part].get(name) not in (None, value):
                raise ConfigError(
                    f"{source} has {part}.{name} {parts[part][name]!r}, expected {value!r}",
                    remedy="use this model with torch: there is no Equinox model of it",
                )
    tiny = sam2_architecture(_TINY)
    try:
        found = Sam2Architecture(
            embed_dims=_counts(backbone, "embed_dim_per_stage", tiny.embed_dims),
            stage_depths=_counts(backbone, "blocks_per_stage", tiny.stage_depths),
            stage_heads=_counts(backbone, "num_attention_heads_per_stage", tiny.stage_heads),
            window_sizes=_counts(backbone, "window_size_per_stage", tiny.window_sizes),
            global_blocks=_counts(backbone, "global_attention_blocks", tiny.global_blocks),
            background_size=_counts(backbone, "window_positional_embedding_background_size", tiny.background_size),
            pooled_stages=int(backbone.get("num_query_pool_stages", tiny.pooled_stages)),
            mlp_ratio=float(backbone.get("mlp_ratio", tiny.mlp_ratio)),
            layer_norm_eps=float(backbone.get("layer_norm_eps", tiny.layer_norm_eps)),
            top_down_levels=_counts(vision, "fpn_top_down_levels", tiny.top_down_levels),
            image_size=int(prompt.get("image_size", tiny.image_size)),
            dim=int(decoder.get("hidden_size", tiny.dim)),
            num_heads=int(decoder.get("num_attention_heads", tiny.num_heads)),
            downsample_rate=int(decoder.get("attention_downsample_rate", tiny.downsample_rate)),
            num_layers=int(decoder.get("num_hidden_layers", tiny.num_layers)),
            mlp_dim=int(decoder.get("mlp_dim", tiny.mlp_dim)),
            num_masks=int(decoder.get("num_multimask_outputs", tiny.num_masks)),
            iou_head_dim=int(decoder.get("iou_head_hidden_dim", tiny.iou_head_dim)),
            iou_head_depth=int(decoder.get("iou_head_depth", tiny.iou_head_depth)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{source} has a setting of the wrong type: {error}", remedy="correct it, or fetch it again"
        ) from error
    _check(found, source)
    return found


def _counts(settings: Mapping[str, Any], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = settings.get(name)
    return default if value is None else tuple(int(number) for number in value)


def _check(found: Sam2Architecture, source: str) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        ConfigError: With the sizes.
    """
    unit = STRIDES[0] * found.window_sizes[0] if found.window_sizes else 0
    if not unit or found.image_size < 1 or found.image_size % unit:
        raise ConfigError(
            f"{source} has image_size {found.image_size}, expected a multiple of {unit}",
            remedy="correct it in the prompt_encoder_config; released models have 1024",
        )
    stages = (found.embed_dims, found.stage_depths, found.stage_heads, found.window_sizes)
    if {len(values) for values in stages} != {4} or len(found.background_size) != 2:
        raise ConfigError(
            f"{source} does not state four stages", remedy="correct the backbone_config, or fetch it again"
        )
    if found.num_layers != 2:
        raise ConfigError(
            f"{source} has a decoder of {found.num_layers} layers, expected 2", remedy="use this model with torch"
        )
