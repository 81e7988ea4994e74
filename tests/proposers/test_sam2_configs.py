"""The released SAM2 configurations against Meta's own YAML files, which the PyPI package sam2 brings."""

import inspect
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from sam2.modeling.backbones.hieradet import Hiera

from no_time_to_train.configs.sam2 import SAM2_CONFIGS
from no_time_to_train.errors import ConfigError
from no_time_to_train.proposers.sam2.configs import (
    describe_shape,
    resolve_sam2_config,
    shape_of,
    to_transformers,
)
from tests.tiny import config_settings, write_config


def _metas_trunk(name: str) -> dict[str, Any]:
    """Return all settings of Meta's image encoder: of the YAML file, or else the defaults of the code."""
    folder = "sam2.1" if name.startswith("sam2.1") else "sam2"
    model = yaml.safe_load((resources.files("sam2") / "configs" / folder / name).read_text())["model"]
    defaults = {key: value.default for key, value in inspect.signature(Hiera).parameters.items()}
    return {**defaults, **model["image_encoder"]["trunk"], "image_size": model["image_size"]}


@pytest.mark.parametrize("name", SAM2_CONFIGS)
def test_settings_are_metas(name: str) -> None:
    ours, theirs = SAM2_CONFIGS[name], _metas_trunk(name)
    for setting in ("embed_dim", "num_heads", "image_size"):
        assert getattr(ours, setting) == theirs[setting], setting
    for setting in ("stages", "global_att_blocks", "window_pos_embed_bkg_spatial_size", "window_spec"):
        assert getattr(ours, setting) == tuple(theirs[setting]), setting


def test_in_the_words_of_transformers() -> None:
    config: Any = to_transformers(SAM2_CONFIGS["sam2_hiera_b+.yaml"])
    vision, backbone = config.vision_config, config.vision_config.backbone_config
    assert backbone.hidden_size == 112
    assert list(backbone.image_size) == [1024, 1024]
    assert backbone.num_attention_heads == 2
    assert backbone.blocks_per_stage == [2, 3, 16, 3]
    assert backbone.embed_dim_per_stage == [112, 224, 448, 896]
    assert backbone.num_attention_heads_per_stage == [2, 4, 8, 16]
    assert backbone.window_size_per_stage == [8, 4, 14, 7]
    assert backbone.global_attention_blocks == [12, 16, 20]
    assert backbone.window_positional_embedding_background_size == [14, 14]
    assert vision.backbone_channel_list == [896, 448, 224, 112]
    assert vision.backbone_feature_sizes == [[256, 256], [128, 128], [64, 64]]
    assert config.prompt_encoder_config.image_size == 1024


@pytest.mark.parametrize("name", SAM2_CONFIGS)
def test_a_shape_is_described_by_its_names(name: str) -> None:
    size = name.rpartition("_")[2]
    shape = shape_of(to_transformers(SAM2_CONFIGS[name]))
    assert shape == SAM2_CONFIGS[name].shape
    assert describe_shape(shape) == f"sam2_hiera_{size} or sam2.1_hiera_{size}"


def test_image_sizes_of_whole_windows(tmp_path: Path) -> None:
    # Windows of 8 tokens of 4 pixels: 160 is a multiple of 32 that is not one of 64, and 144 is not a multiple.
    for size, fits in ((160, True), (144, False)):
        settings = config_settings()
        settings["prompt_encoder_config"]["image_size"] = size
        settings["vision_config"]["backbone_feature_sizes"] = [[size // stride] * 2 for stride in (4, 8, 16)]
        folder = write_config(tmp_path / str(size), settings)
        if fits:
            config: Any = resolve_sam2_config(folder)
            assert config.prompt_encoder_config.image_size == size
        else:
            with pytest.raises(ConfigError, match="image_size 144, expected one number that is a multiple of 32"):
                resolve_sam2_config(folder)
