"""From an architecture to transformers' model of it."""

from collections.abc import Mapping
from typing import Any

import transformers

from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.weights.hf_config import MODEL_CLASSES, model_config


def build_model(
    architecture: Architecture, *, num_heads: int, settings: Mapping[str, Any] | None = None
) -> transformers.PreTrainedModel:
    """Build transformers' model of an architecture on the current default device.

    Args:
        architecture: As read from tensors, or a registry entry.
        num_heads: Used where the architecture does not tell its heads.
        settings: A `config.json`, of which the norms' epsilon, the RoPE base and the activation are taken.

    Raises:
        WeightsFormatError: The sizes contradict each other, or the activation is not known.
    """
    config = model_config(architecture, num_heads=num_heads, settings=settings)
    kind = config.pop("model_type")
    model: type[transformers.PreTrainedModel] = getattr(transformers, MODEL_CLASSES[kind])
    return model(transformers.AutoConfig.for_model(kind, **config))
