"""Which tensors a feature cache may give back: every name, type, shape and value that cannot be right is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.models.cache.entries import are_embedding, are_masks, are_patches
from no_time_to_train.models.cache.mask_codec import pack_masks
from no_time_to_train.proposers.base import MaskProposals
from tests.proposers.toy import MASK, SIDE, ToyPromptable

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"
TOY = ToyPromptable()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder("dinov3_quickstart", QUICKSTART / "encoder", img_size=64)


def test_patches(encoder: Encoder) -> None:
    patch, width = encoder.patch_size, encoder.embed_dim
    image = torch.zeros(3, 32, 96, dtype=torch.uint8)
    side = 64 // patch
    stretched = torch.zeros(side, side, width)
    assert are_patches({"patches": stretched}, image, encoder, "stretch")
    assert not are_patches({"patches": stretched}, image, encoder, "keep_ratio")
    # A third as high as wide, rounded to whole patches.
    kept = torch.zeros(round(64 / 3 / patch), side, width)
    assert are_patches({"patches": kept}, image, encoder, "keep_ratio")
    assert not are_patches({"patches": kept.transpose(0, 1)}, image, encoder, "keep_ratio")
    assert not are_patches({"patches": stretched[..., 1:]}, image, encoder, "stretch")


@pytest.mark.parametrize(
    ("tensors", "right"),
    [
        ({"colors": torch.zeros(1, 3, MASK, MASK)}, True),
        ({}, False),
        ({"colours": torch.zeros(1, 3, MASK, MASK)}, False),
        ({"colors": torch.zeros(1, 3, MASK, MASK), "more": torch.zeros(1)}, False),
        ({"colors": torch.zeros(2, 3, MASK, MASK)}, False),
        ({"colors": torch.zeros(1, 3, MASK, MASK, dtype=torch.float64)}, False),
        ({"colors": torch.full((1, 3, MASK, MASK), torch.inf)}, False),
    ],
)
def test_embeddings(tensors: dict[str, Tensor], right: bool) -> None:
    assert are_embedding(tensors, TOY) is right


def _masks(count: int, height: int, width: int) -> dict[str, Tensor]:
    logits = torch.full((count, height, width), -1.0)
    logits[:, : height // 2] = 1.0
    return pack_masks(MaskProposals(logits, torch.full((count,), 0.5)))


@pytest.mark.parametrize(
    ("size", "right"),
    [
        ((2, 3, 5), True),
        ((0, 3, 5), True),
        ((2, 1, 1), True),
        ((1, SIDE, SIDE), True),
        # Larger than the model's input, or without pixels.
        ((1, SIDE + 1, SIDE), False),
        ((1, SIDE, SIDE + 1), False),
        ((1, 0, 5), False),
        ((1, 5, 0), False),
    ],
)
def test_masks_of_any_size_that_the_model_draws(size: tuple[int, int, int], right: bool) -> None:
    assert are_masks(_masks(*size), TOY) is right


@pytest.mark.parametrize(
    "change",
    [
        {"size": torch.tensor([2, 3])},
        {"size": torch.tensor([3, 3, 5])},
        {"size": torch.tensor([2, 3, 6])},
        # The same number of pixels.
        {"size": torch.tensor([1, 6, 5])},
        {"runs": torch.tensor([[0, 5, 10, 5, 10]])},
        {"runs": torch.tensor([0.0, 5.0, 10.0, 5.0, 10.0])},
        {"runs": torch.tensor([0, 5, 10, 5, 11])},
        {"runs": torch.tensor([0, 5, 10, -5, 20])},
        {"outlines": torch.tensor([[1.0]])},
        {"outlines": torch.tensor([torch.nan])},
        {"outlines": torch.tensor([1.0], dtype=torch.float64)},
        {"predicted_iou": torch.tensor([0.5])},
        {"predicted_iou": torch.tensor([0.5, torch.nan])},
        {"more": torch.tensor([0.5])},
    ],
)
def test_masks_that_are_not_whole(change: dict[str, Tensor]) -> None:
    whole = _masks(2, 3, 5)
    assert whole["runs"].tolist() == [0, 5, 10, 5, 10]
    assert are_masks(whole, TOY)
    assert are_masks(whole | {"runs": whole["runs"].to(torch.int64)}, TOY)
    assert not are_masks(whole | change, TOY)


@pytest.mark.parametrize("name", ["size", "runs", "outlines", "predicted_iou"])
def test_masks_without_a_part(name: str) -> None:
    tensors = _masks(2, 3, 5)
    del tensors[name]
    assert not are_masks(tensors, TOY)
