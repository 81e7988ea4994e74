"""SAM2's weights for JAX: Meta's files and transformers' folders, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from no_time_to_train.errors import ConfigError, KeyMismatchError, ShapeMismatchError, WeightsNotFoundError
from no_time_to_train.jax_models.load import leaf_names
from no_time_to_train.jax_models.sam2 import load_eqx_sam2
from no_time_to_train.jax_models.sam2.load import is_sam2, read_sam2_source
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from tests.jax_models.sam2.random_models import random_torch_model
from tests.proposers.sam2_oracle import SCRIPT_WARNING, save_meta
from tests.tiny import write_config

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "checkpoints" / "quickstart" / "sam2"


@pytest.mark.filterwarnings(SCRIPT_WARNING)
@pytest.mark.parametrize("version", ["2", "2.1"])
def test_metas_file_holds_the_same_leaves(version: str, tmp_path: Path) -> None:
    import torch

    path = save_meta(write_config(tmp_path), version)
    stored = torch.load(path, weights_only=True)["model"]
    model = load_eqx_sam2(path)
    assert np.array_equal(model.vision_encoder.backbone.pos_embed, stored["image_encoder.trunk.pos_embed"])
    embeddings = [stored[f"sam_prompt_encoder.point_embeddings.{index}.weight"] for index in range(4)]
    assert np.array_equal(model.prompt_encoder.point_embed.weight, torch.cat(embeddings))
    hypernetwork = stored["sam_mask_decoder.output_hypernetworks_mlps.2.layers.1.weight"]
    assert np.array_equal(model.mask_decoder.output_hypernetworks_mlps[2].layers[0].weight, hypernetwork)


def test_leaves_have_the_names_of_transformers() -> None:
    source = read_sam2_source(QUICKSTART)
    state = random_torch_model(resolve_sam2_config(QUICKSTART)).state_dict()
    assert list(source.leaves) == leaf_names(load_eqx_sam2(QUICKSTART))
    assert source.leaves.keys() <= state.keys() | {"prompt_encoder.shared_embedding.positional_embedding"}
    left_out = {name.split(".")[1] for name in state.keys() - source.leaves.keys()}
    assert left_out <= {"mask_embed", "positional_embedding"}


def copy_of_quickstart(folder: Path, **changed: np.ndarray | None) -> Path:
    """Copy the shipped model with some of its tensors changed, or left out."""
    shutil.copytree(QUICKSTART, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changed.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_missing_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    folder = copy_of_quickstart(tmp_path / "a", **{"mask_decoder.iou_token.weight": None, "extra": np.ones(2)})
    with pytest.raises(KeyMismatchError, match=r"lacks 1 .*mask_decoder\.iou_token\.weight.* 1 others .*extra"):
        load_eqx_sam2(folder)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = copy_of_quickstart(tmp_path / "a", **{"mask_decoder.iou_token.weight": np.ones((2, 128), np.float32)})
    with pytest.raises(ShapeMismatchError, match=r"iou_token\.weight .* is \(2, 128\), expected \(1, 128\)"):
        load_eqx_sam2(folder)


def test_weights_of_another_sam2_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"a Hiera of width 32 .*, expected sam2_hiera_tiny"):
        load_eqx_sam2("sam2_hiera_tiny", QUICKSTART)


def test_a_config_of_other_sizes_is_refused(tmp_path: Path) -> None:
    folder = copy_of_quickstart(tmp_path / "a")
    settings = json.loads((folder / "config.json").read_text())
    settings["vision_config"]["backbone_config"]["blocks_per_stage"] = [1, 2, 7, 2]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ShapeMismatchError, match=r"\(1, 2, 7, 2\) blocks, its weights are .*\(1, 2, 6, 2\)"):
        load_eqx_sam2(folder)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("vision_config", "num_feature_levels", 2, "num_feature_levels 2, expected 3"),
        ("mask_decoder_config", "num_hidden_layers", 3, "a decoder of 3 layers, expected 2"),
        ("prompt_encoder_config", "image_size", 200, "image_size 200, expected a multiple of 32"),
        ("mask_decoder_config", "mlp_dim", "wide", "a setting of the wrong type"),
    ],
)
def test_settings_that_there_is_no_model_for_are_refused(
    part: str, name: str, value: object, message: str, tmp_path: Path
) -> None:
    folder = copy_of_quickstart(tmp_path / "a")
    settings = json.loads((folder / "config.json").read_text())
    settings[part][name] = value
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message):
        load_eqx_sam2(folder)


def test_weights_of_unknown_sizes_need_a_config(tmp_path: Path) -> None:
    folder = copy_of_quickstart(tmp_path / "a")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"a Hiera of width 32 .*, without a config\.json"):
        load_eqx_sam2(folder)


def test_a_released_name_without_weights_says_how_to_fetch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="ntt fetch sam2_hiera_tiny"):
        load_eqx_sam2("sam2_hiera_tiny")


def test_is_sam2() -> None:
    assert is_sam2(QUICKSTART)
    assert is_sam2("sam2.1_hiera_large")
    assert is_sam2("sam2_hiera_tiny", QUICKSTART)
    assert not is_sam2(ROOT / "checkpoints" / "quickstart" / "encoder")
    assert not is_sam2("dinov3_small")
