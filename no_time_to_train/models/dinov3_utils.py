"""The registry of encoders under the name by which users of the original project import it."""

from no_time_to_train.configs.encoders import (
    ALIASES,
    DINOV2_CONFIGS,
    DINOV2_LICENSE,
    DINOV3_CONFIGS,
    DINOV3_LICENSE,
    ENCODER_CONFIGS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLUS_VARIANTS,
    SAT493M_MEAN,
    SAT493M_STD,
    SHORT_NAMES,
    EncoderConfig,
    resolve_encoder,
    weights_at_hand,
)

__all__ = [
    "ALIASES",
    "DINOV2_CONFIGS",
    "DINOV2_LICENSE",
    "DINOV3_CONFIGS",
    "DINOV3_LICENSE",
    "ENCODER_CONFIGS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PLUS_VARIANTS",
    "SAT493M_MEAN",
    "SAT493M_STD",
    "SHORT_NAMES",
    "EncoderConfig",
    "resolve_encoder",
    "weights_at_hand",
]
