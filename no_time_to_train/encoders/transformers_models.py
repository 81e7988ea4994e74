"""From an architecture to transformers' model of it."""

from collections.abc import Mapping
from typing import Any

from transformers import (
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ConvNextModel,
    DINOv3ViTModel,
    PreTrainedModel,
)

from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.weights.hf_config import transformers_config

_MODELS: dict[str, type[PreTrainedModel]] = {
    "dinov3_vit": DINOv3ViTModel,
    "dinov3_convnext": DINOv3ConvNextModel,
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
}


def build_model(
    architecture: Architecture, *, num_heads: int, settings: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Build transformers' model of an architecture on the current default device.

    Args:
        architecture: As read from tensors, or a registry entry.
        num_heads: Used where the architecture does not tell its heads.
        settings: A `config.json`, of which the norms' epsilon, the RoPE base and the activation are taken.

    Raises:
        WeightsFormatError: The sizes contradict each other, or the activation is not known.
    """
    config = transformers_config(architecture, num_heads=num_heads, settings=settings)
    return _MODELS[config.model_type](config)
