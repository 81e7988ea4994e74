"""The SAM2 image models by Meta's configuration names, and their transformers configurations."""

import difflib
from pathlib import Path
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from no_time_to_train.configs.sam2 import SAM2_CONFIGS, STRIDES, HieraShape, Sam2HieraConfig
from no_time_to_train.errors import ConfigError, UnknownNameError
from no_time_to_train.io.strict_json import parse_json

_MODEL_TYPES = ("sam2", "sam2_video")


def resolve_sam2_config(cfg_file: str | Path) -> Sam2Config:
    """Turn Meta's name, or a Hugging Face folder, into a transformers configuration.

    Args:
        cfg_file: A name of `SAM2_CONFIGS`, with or without a folder before it (``configs/sam2.1/...``), or a folder
            with a ``config.json`` of a SAM2 (video) model, or that file.

    Raises:
        UnknownNameError: Neither a known name nor a folder with a configuration.
        ConfigError: The ``config.json`` is not one of SAM2.
    """
    path = Path(cfg_file)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json" and path.is_file():
        return _read_config(path)
    if path.name in SAM2_CONFIGS:
        return to_transformers(SAM2_CONFIGS[path.name])
    nearest = difflib.get_close_matches(path.name.lower(), SAM2_CONFIGS, n=1, cutoff=0.0)[0]
    raise UnknownNameError(
        f"no SAM2 configuration {str(cfg_file)!r}: not a folder with a config.json, and not one of "
        + ", ".join(SAM2_CONFIGS),
        remedy=f"did you mean {nearest}?",
    )


def to_transformers(config: Sam2HieraConfig) -> Sam2Config:
    """Write a configuration in transformers' terms."""
    widths = [config.embed_dim * 2**i for i in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=config.embed_dim,
        num_attention_heads=config.num_heads,
        image_size=[config.image_size, config.image_size],
        blocks_per_stage=list(config.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[config.num_heads * 2**i for i in range(4)],
        window_size_per_stage=list(config.window_spec),
        global_attention_blocks=list(config.global_att_blocks),
        window_positional_embedding_background_size=list(config.window_pos_embed_bkg_spatial_size),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[config.image_size // stride] * 2 for stride in STRIDES],
    )
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(image_size=config.image_size),
        mask_decoder_config=Sam2MaskDecoderConfig(),
    )


def shape_of(config: Sam2Config) -> HieraShape:
    """What a checkpoint's tensors must show to fit a transformers configuration."""
    backbone = cast(Any, _vision(config).backbone_config)
    return HieraShape(
        embed_dim=backbone.hidden_size,
        stages=tuple(backbone.blocks_per_stage),
        background_size=tuple(backbone.window_positional_embedding_background_size),
        window_size=backbone.window_size_per_stage[0],
    )


def describe_shape(shape: HieraShape) -> str:
    """Say an architecture by the names of the known configurations, or by its figures where it is none of them."""
    names = [name for name, config in SAM2_CONFIGS.items() if config.shape == shape]
    return " or ".join(names) or f"a Hiera of width {shape.embed_dim} with {shape.stages} blocks"


def _vision(config: Sam2Config) -> Sam2VisionConfig:
    # A configuration's parts may be given as dictionaries, but are objects from then on.
    return cast(Sam2VisionConfig, config.vision_config)


def _read_config(path: Path) -> Sam2Config:
    remedy = "name the folder of a SAM2 model, or one of " + ", ".join(SAM2_CONFIGS)
    try:
        settings: dict[str, Any] = parse_json(path.read_bytes())
        model_type = settings["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a transformers configuration: {error!r}", remedy=remedy) from error
    if model_type not in _MODEL_TYPES:
        raise ConfigError(f"{path} is of model_type {model_type!r}, expected sam2 or sam2_video", remedy=remedy)
    # The video model's parts name other types, though their settings are those of the image model.
    parts = {
        name: {key: value for key, value in settings.get(name, {}).items() if key != "model_type"}
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    try:
        config = Sam2Config(
            vision_config=Sam2VisionConfig(**parts["vision_config"]),
            prompt_encoder_config=Sam2PromptEncoderConfig(**parts["prompt_encoder_config"]),
            mask_decoder_config=Sam2MaskDecoderConfig(**parts["mask_decoder_config"]),
        )
    except StrictDataclassError as error:
        raise ConfigError(f"{path} has a setting of the wrong type: {error}", remedy=remedy) from error
    _check_sizes(config, path)
    return config


def _check_sizes(config: Sam2Config, path: Path) -> None:
    size = cast(Sam2PromptEncoderConfig, config.prompt_encoder_config).image_size
    window = shape_of(config).window_size
    if not isinstance(size, int) or size % (STRIDES[0] * window):
        raise ConfigError(
            f"{path} has image_size {size}, expected one number that is a multiple of {STRIDES[0] * window}",
            remedy="correct it in the prompt_encoder_config; released models have 1024",
        )
    expected = [[size // stride, size // stride] for stride in STRIDES]
    got = [list(pair) for pair in _vision(config).backbone_feature_sizes or []]
    # transformers reshapes the feature maps to these sizes unasked, so that wrong ones mix channels and pixels.
    if got != expected:
        raise ConfigError(
            f"{path} contradicts itself: image_size {size} needs backbone_feature_sizes {expected}, got {got}",
            remedy="correct one of the two in config.json",
        )
