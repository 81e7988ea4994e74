"""SAM2's key map: every tensor of every released configuration, and what is dropped or refused."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from transformers import Sam2Model

from no_time_to_train.configs.sam2 import SAM2_CONFIGS, HieraShape
from no_time_to_train.errors import KeyMismatchError, WeightsFormatError
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.weights.layouts.sam2 import (
    META_VIDEO_ONLY,
    POSITION_BUFFERS,
    hiera_shape,
    image_part_of_transformers,
    meta_key_map,
    meta_sam2_to_transformers,
    sam2_layout,
    video_only,
)
from no_time_to_train.weights.load import from_tensor
from tests.proposers.sam2_oracle import tiny_meta
from tests.tiny import STAGES, WIDTH
from tests.weights.stored import stored

ZERO = from_tensor(torch.zeros(1))


def _meta_model(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build Meta's full model without its weights."""
    # Hiera reads its drop rates out of a linspace, which the meta device has no values for.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        return instantiate(compose(config_name=f"configs/{name.partition('_')[0]}/{name}").model, _recursive_=True)


@pytest.mark.parametrize("name", SAM2_CONFIGS)
def test_released_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = _meta_model(name, monkeypatch)
    with torch.device("meta"):
        ours = Sam2Model(resolve_sam2_config(name))

    renamed = meta_sam2_to_transformers(stored(theirs.state_dict()))
    expected = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert {key: tensor.shape for key, tensor in renamed.items()} == expected
    assert hiera_shape(renamed) == SAM2_CONFIGS[name].shape

    # What no tensor shows.
    assert ours.prompt_encoder.input_image_size == theirs.image_size
    for block, reference in zip(ours.vision_encoder.backbone.blocks, theirs.image_encoder.trunk.blocks, strict=True):
        assert block.window_size == reference.window_size
        assert block.attn.num_attention_heads == reference.attn.num_heads
        assert tuple(block.query_stride or ()) == tuple(reference.q_stride or ())


@pytest.mark.parametrize("version", ["2", "2.1"])
def test_every_value_arrives(version: str) -> None:
    """Each tensor keeps its values and each name is used once, so that no two of one shape are swapped unseen."""
    state = stored(tiny_meta(version).state_dict())
    renamed = meta_sam2_to_transformers(state)
    table = meta_key_map(sum(STAGES))
    assert len(set(table.values())) == len(table)
    for key in state.keys() & table.keys():
        assert renamed[table[key]] is state[key]
    gaussian = state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert all(renamed[name] is gaussian for name in POSITION_BUFFERS)
    for i in range(4):
        point = state[f"sam_prompt_encoder.point_embeddings.{i}.weight"].array()[0]
        assert np.array_equal(renamed["prompt_encoder.point_embed.weight"].array()[i], point)
    assert hiera_shape(renamed) == HieraShape(WIDTH, tuple(STAGES), (7, 7), 8)


def test_only_video_parts_are_dropped() -> None:
    state = stored(tiny_meta("2.1").state_dict())
    table = meta_key_map(sum(STAGES))
    dropped = {key for key in state if key not in table and not key.startswith("sam_prompt_encoder.")}
    for reason in META_VIDEO_ONLY:
        assert any(key == reason or key.startswith(reason) for key in dropped), f"nothing is dropped as {reason}"
    image_only = {key: tensor for key, tensor in state.items() if key not in dropped}
    assert meta_sam2_to_transformers(image_only).keys() == meta_sam2_to_transformers(state).keys()


def test_unknown_names_are_counted() -> None:
    extra = {f"lora.{i:02}": ZERO for i in range(12)}
    with pytest.raises(
        KeyMismatchError, match=r"12 tensors of x\.pt .*lora\.00, .*lora\.09, \.\.\. \(name a SAM 2"
    ) as e:
        meta_sam2_to_transformers(stored(tiny_meta("2.1").state_dict()) | extra, source="x.pt")
    assert "lora.10" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["mask_downsampler.weight", "no_mem_embedding", "image_encoder.trunk.blocks.0.norm3.weight"]
)
def test_near_misses_are_unknown(name: str) -> None:
    with pytest.raises(KeyMismatchError, match=f"1 tensors .*: {name} "):
        meta_sam2_to_transformers(stored(tiny_meta("2.1").state_dict()) | {name: ZERO})


def test_part_of_the_point_embeddings() -> None:
    state = stored(tiny_meta("2.1").state_dict())
    del state["sam_prompt_encoder.point_embeddings.2.weight"]
    with pytest.raises(KeyMismatchError, match=r"lacks sam_prompt_encoder\.point_embeddings\.2\.weight"):
        meta_sam2_to_transformers(state)


def test_without_point_embeddings() -> None:
    """They are missing afterwards, too, for the strict loader to name."""
    whole = stored(tiny_meta("2.1").state_dict())
    lacking = {name: tensor for name, tensor in whole.items() if ".point_embeddings." not in name}
    expected = meta_sam2_to_transformers(whole).keys() - {"prompt_encoder.point_embed.weight"}
    assert meta_sam2_to_transformers(lacking).keys() == expected


@pytest.mark.parametrize(("count", "last"), [(10, r"lora\.09 \("), (11, r"lora\.09, \.\.\. \(")])
def test_ten_unknown_names_are_shown(count: int, last: str) -> None:
    with pytest.raises(KeyMismatchError, match=f"{count} tensors .*{last}"):
        meta_sam2_to_transformers({f"lora.{index:02}": ZERO for index in range(count)})


def test_layouts_are_told_apart() -> None:
    state = stored(tiny_meta("2.1").state_dict())
    assert sam2_layout(state, source="x") == "meta"
    assert sam2_layout(meta_sam2_to_transformers(state), source="x") == "transformers"
    with pytest.raises(WeightsFormatError, match=r"x is not a SAM2 file.*name a SAM2 checkpoint"):
        sam2_layout({"blocks.0.norm1.weight": ZERO}, source="x")


@pytest.mark.parametrize("kept", POSITION_BUFFERS)
def test_one_position_matrix_serves_for_both(kept: str) -> None:
    matrix = from_tensor(torch.rand(2, 4))
    part = image_part_of_transformers({kept: matrix, "no_object_pointer": ZERO, "other": ZERO})
    assert part.keys() == {*POSITION_BUFFERS, "other"}
    assert all(part[name] is matrix for name in POSITION_BUFFERS)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["no_object_pointer", "no_object_pointer.more", "memory_attention.layers.0.a", "memory_attention"], [0, 2]),
        (["image_encoder.a", "obj_ptr_proj.a", "maskmem_tpos_enc", "maskmem_tpos_encode"], [1, 2]),
    ],
)
def test_what_only_video_needs(names: list[str], found: list[int]) -> None:
    assert list(video_only(names)) == [names[index] for index in found]


def test_no_shape_without_tensors() -> None:
    assert hiera_shape({}) is None
