"""The configurations of transformers, without its models."""

import pytest
from transformers import AutoConfig, Dinov2Config, DINOv3ConvNextConfig, DINOv3ViTConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, Architecture, Family, resolve_encoder
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.hf_config import MODEL_CLASSES, default_settings, model_config

TOLD = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "intermediate_size", "mlp_ratio"),
    *("hidden_sizes", "depths", "num_register_tokens", "query_bias", "key_bias", "value_bias", "qkv_bias"),
    *("use_gated_mlp", "use_swiglu_ffn", "hidden_act", "image_size"),
)


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
        config = model_config(entry, num_heads=6, settings={"hidden_act": activation})
        assert config["hidden_act"] == activation
    else:
        with pytest.raises(WeightsFormatError, match="is not known"):
            model_config(entry, num_heads=6, settings={"hidden_act": activation})


@pytest.mark.parametrize("name", ENCODER_CONFIGS)
def test_what_is_stated_is_what_transformers_takes_by_itself(name: str) -> None:
    entry = ENCODER_CONFIGS[name]
    stated = model_config(entry, num_heads=entry.num_heads)
    # Sizes and biases, which its defaults cannot know.
    told = {key: stated[key] for key in TOLD if key in stated}
    theirs = AutoConfig.for_model(stated["model_type"], **told)
    assert {key: getattr(theirs, key) for key in stated if key != "architectures"} == {
        key: value for key, value in stated.items() if key != "architectures"
    }
    assert stated["architectures"] == [type(theirs).__name__.removesuffix("Config") + "Model"]
    assert stated["architectures"] == [MODEL_CLASSES[theirs.model_type]]
