"""The configurations of transformers, without its models."""

import pytest
from transformers import Dinov2Config, DINOv3ConvNextConfig, DINOv3ViTConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from no_time_to_train.configs.encoders import Architecture, Family, resolve_encoder
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.hf_config import default_settings, transformers_config


@pytest.mark.parametrize(
    ("family", "theirs"),
    [("dinov3_vit", DINOv3ViTConfig()), ("dinov3_convnext", DINOv3ConvNextConfig()), ("dinov2", Dinov2Config())],
)
def test_defaults_are_those_of_transformers(family: Family, theirs: PreTrainedConfig) -> None:
    found = default_settings(Architecture(family=family, embed_dim=64, depth=1))
    assert found == {name: getattr(theirs, name) for name in found}


@pytest.mark.parametrize("activation", [*sorted(ACT2FN), "x", None])
def test_activations_are_those_of_transformers(activation: str | None) -> None:
    entry = resolve_encoder("dinov3_small")
    if activation in ACT2FN:
        config = transformers_config(entry, num_heads=6, settings={"hidden_act": activation})
        assert config.hidden_act == activation
    else:
        with pytest.raises(WeightsFormatError, match="is not known"):
            transformers_config(entry, num_heads=6, settings={"hidden_act": activation})
