"""Masks come back bit by bit at the image's size, from the outlines of their logits alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from no_time_to_train.matching.tiled_masks import pixel_reach, resize_masks
from no_time_to_train.models.cache.mask_codec import _parts, pack_masks, unpack_masks
from no_time_to_train.proposers.base import MaskProposals


def blobs(seed: int, count: int, size: tuple[int, int], coarse: int, level: float) -> Tensor:
    """Smooth random logits, or rough ones where `coarse` is the size itself; some of them exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randn(count, 1, min(coarse, size[0]), min(coarse, size[1]), generator=generator)
    logits = F.interpolate(grid, size, mode="bicubic")[:, 0] * 8 - level
    return logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.05, 0.0)


def round_trip(logits: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
    reach = 1 if image_size is None else pixel_reach((logits.shape[1], logits.shape[2]), image_size)
    masks: Tensor = unpack_masks(pack_masks(MaskProposals(logits, torch.zeros(len(logits))), reach), reach).mask_logits
    assert masks.shape == logits.shape
    assert masks.dtype == torch.float32
    return masks


def at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False, antialias=True)[0] > 0


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 5),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    coarse=st.sampled_from([1, 2, 4, 40]),
    level=st.sampled_from([-30.0, -8.0, 0.0, 8.0, 30.0]),
    image_size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
)
@example(seed=0, count=3, size=(32, 32), coarse=4, level=0.0, image_size=(32, 32))
@example(seed=0, count=3, size=(32, 32), coarse=40, level=0.0, image_size=(128, 128))
def test_masks_are_the_same_at_any_size(
    seed: int, count: int, size: tuple[int, int], coarse: int, level: float, image_size: tuple[int, int]
) -> None:
    before = blobs(seed, count, size, coarse, level)
    after = round_trip(before, image_size)
    assert torch.equal(after > 0, before > 0)
    assert torch.equal(at_size(after, image_size), at_size(before, image_size))
    assert torch.equal(resize_masks(after, image_size), resize_masks(before, image_size))


@pytest.mark.parametrize("image_size", [(3000, 4000), (720, 1280), (256, 256), (100, 37), (8, 8)])
def test_masks_of_sam2s_size_are_the_same_on_photographs(image_size: tuple[int, int]) -> None:
    before = blobs(1, 2, (256, 256), 12, 8.0)
    after = round_trip(before, image_size)
    assert torch.equal(at_size(after, image_size), at_size(before, image_size))
    assert torch.equal(resize_masks(after, image_size), resize_masks(before, image_size))


def test_a_smaller_image_needs_logits_farther_from_the_outlines() -> None:
    before = blobs(1, 2, (256, 256), 12, 8.0)
    assert not torch.equal(resize_masks(round_trip(before), (64, 64)), resize_masks(before, (64, 64)))


def test_many_masks_and_masks_larger_than_what_is_looked_at_together() -> None:
    for before in (blobs(2, 300, (64, 64), 6, 4.0), blobs(2, 3, (700, 500), 6, 4.0)):
        assert torch.equal(at_size(round_trip(before, (90, 120)), (90, 120)), at_size(before, (90, 120)))


def test_smallest_and_largest_logits_keep_their_sides() -> None:
    before = blobs(3, 4, (24, 24), 24, 0.0).sign() * torch.tensor([1e-30, 1e-3, 1e30, 1.0])[:, None, None]
    assert torch.equal(at_size(round_trip(before), (61, 67)), at_size(before, (61, 67)))


def test_predicted_iou_comes_back() -> None:
    quality = torch.rand(3)
    assert torch.equal(
        unpack_masks(pack_masks(MaskProposals(blobs(4, 3, (8, 8), 8, 0.0), quality))).predicted_iou, quality
    )


@pytest.mark.parametrize("shape", [(0, 16, 16), (3, 0, 0), (1, 1, 1), (2, 1, 9), (2, 9, 1)])
def test_any_shape_comes_back(shape: tuple[int, int, int]) -> None:
    for value in (-1.0, 0.0, 1.0):
        before = torch.full(shape, value)
        assert torch.equal(round_trip(before) > 0, before > 0)


def test_masks_without_foreground_stand_among_others() -> None:
    before = torch.full((4, 16, 16), -3.0)
    before[1, 4:9, 5:8] = 2.0
    before[3] = 2.0
    after = round_trip(before)
    assert (after > 0).flatten(1).sum(dim=1).tolist() == [0, 15, 0, 256]
    assert torch.equal(at_size(after, (50, 60)), at_size(before, (50, 60)))


def test_packed_masks_are_small() -> None:
    before = blobs(5, 20, (256, 256), 8, 8.0)
    packed = pack_masks(MaskProposals(before, torch.zeros(20)))
    assert sum(tensor.nbytes for tensor in packed.values()) < before.nbytes / 4


def test_strided_half_precision_and_differentiable_logits_are_packed() -> None:
    before = blobs(6, 3, (20, 30), 6, 0.0)
    for given_logits in (
        before.transpose(1, 2).contiguous().transpose(1, 2),
        before.clone().requires_grad_(),
        before.bfloat16(),
    ):
        assert torch.equal(at_size(round_trip(given_logits), (55, 44)), at_size(given_logits.float(), (55, 44)))


def _spots(*places: tuple[int, int], height: int = 7, width: int = 9) -> Tensor:
    """One mask of single pixels, whose logits are their numbers in the mask, outside negative."""
    logits = -torch.arange(1.0, height * width + 1).view(1, height, width)
    for row, column in places:
        logits[0, row, column] *= -1
    return logits


@pytest.mark.parametrize(("reach", "rows", "columns"), [(1, (2, 5), (3, 6)), (2, (1, 6), (2, 7)), (3, (0, 7), (1, 8))])
def test_values_are_kept_within_reach(reach: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    logits = _spots((3, 4))
    packed = pack_masks(MaskProposals(logits, torch.zeros(1)), reach)
    near = logits[0, slice(*rows), slice(*columns)]
    assert packed["size"].tolist() == [1, 7, 9]
    assert packed["runs"].tolist() == [31, 1, 31]
    assert torch.equal(packed["outlines"], near.flatten())
    # Elsewhere only the sign comes back.
    expected = torch.full((1, 7, 9), -10.0)
    expected[0, slice(*rows), slice(*columns)] = near
    assert torch.equal(unpack_masks(packed, reach).mask_logits, expected)


def test_outlines_at_the_border() -> None:
    logits = _spots((0, 0), (6, 8))
    packed = pack_masks(MaskProposals(logits, torch.zeros(1)))
    assert packed["runs"].tolist() == [0, 1, 61, 1]
    # The three neighbors of each corner, and the corner.
    corners = torch.cat([logits[0, :2, :2].flatten(), logits[0, 5:, 7:].flatten()])
    assert torch.equal(packed["outlines"], corners)


def test_few_masks_are_looked_at_together() -> None:
    # 2^18 pixels, but always one mask.
    assert list(_parts((3, 700, 500))) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(_parts((150, 64, 64))) == [slice(0, 64), slice(64, 128), slice(128, 192)]
    assert list(_parts((0, 64, 64))) == []
