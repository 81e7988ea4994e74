from pathlib import Path

import pytest
import torch

from no_time_to_train.configs.encoders import (
    ALIASES,
    DINOV2_CONFIGS,
    DINOV3_CONFIGS,
    ENCODER_CONFIGS,
    EncoderConfig,
    resolve_encoder,
)
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import UnknownEncoderError


def test_the_table_is_whole() -> None:
    assert [entry.name for entry in ENCODER_CONFIGS.values() if entry.own] == ["dinov3_quickstart"]
    # And an architecture of this project's, for students, without weights.
    others = {name for name, entry in DINOV3_CONFIGS.items() if not entry.own} - {"dinov3_quickstart_tiny"}
    assert len(others) == 14
    assert set(DINOV2_CONFIGS) == {
        f"dinov2_{size}{suffix}" for size in ("small", "base", "large", "giant") for suffix in ("", "_registers")
    }


@pytest.mark.parametrize("entry", DINOV3_CONFIGS.values(), ids=lambda entry: entry.name)
def test_parameters_and_tensors_are_those_of_metas_files(entry: EncoderConfig) -> None:
    """Count transformers' model of the entry, and add what Meta's file has beside it."""
    if entry.num_parameters is None:
        pytest.skip(f"{entry.name} was never released by Meta")
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tensors = len(model.state_dict())
    if entry.family == "dinov3_convnext":
        tensors += 2  # norms.3, the alias of norm
    else:
        # The periods; one qkv weight for three. With a bias, qkv's and its mask stand for the query's and the value's.
        tensors += 1 - 2 * entry.depth
        parameters += entry.depth * entry.embed_dim if entry.query_bias else 0
        if entry.name in {"dinov3_large_sat", "dinov3_7b", "dinov3_7b_sat"}:  # local_cls_norm
            parameters += 2 * entry.embed_dim
            tensors += 2
    assert parameters == entry.num_parameters
    assert tensors == entry.num_meta_tensors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small", "dinov3_small"),
        ("giant", "dinov3_huge_plus"),
        ("mega", "dinov3_7b"),
        ("dinov3_vitl16", "dinov3_large"),
        ("dinov3_vitl16plus", "dinov3_large_plus"),
        ("facebook/dinov3-vitl16-pretrain-sat493m", "dinov3_large_sat"),
        ("dinov3-vit7b16-pretrain-lvd1689m", "dinov3_7b"),
        ("dinov3_convnext_tiny", "dinov3_convnext_tiny"),
        ("dinov2_vitl14_reg", "dinov2_large_registers"),
        ("facebook/dinov2-large", "dinov2_large"),
    ],
)
def test_names_that_people_use(name: str, expected: str) -> None:
    assert resolve_encoder(name).name == expected


def test_no_alias_hides_an_entry() -> None:
    assert not set(ALIASES) & set(ENCODER_CONFIGS)
    assert set(ALIASES.values()) <= set(ENCODER_CONFIGS)


def test_unknown_name_gives_the_nearest_and_all() -> None:
    with pytest.raises(UnknownEncoderError, match=r"did you mean dinov3_large\?") as error:
        resolve_encoder("dinov3_Large")
    assert all(name in str(error.value) for name in ENCODER_CONFIGS)


def test_plus_variant_is_taken_where_its_weights_are(tmp_path: Path) -> None:
    assert resolve_encoder("small", prefer_plus=True, root=tmp_path).name == "dinov3_small"
    folder = tmp_path / "dinov3-vits16plus-pretrain-lvd1689m"
    folder.mkdir()
    assert resolve_encoder("small", prefer_plus=True, root=tmp_path).name == "dinov3_small"
    (folder / "model.safetensors").touch()
    assert resolve_encoder("small", prefer_plus=True, root=tmp_path).name == "dinov3_small_plus"
    assert resolve_encoder("small", root=tmp_path).name == "dinov3_small"
    assert resolve_encoder("base", prefer_plus=True, root=tmp_path).name == "dinov3_base"
