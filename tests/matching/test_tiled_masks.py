"""Tiles against whole float masks at the image's size."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from no_time_to_train.matching import tiled_masks
from no_time_to_train.matching.interpolation import interpolation_matrix
from no_time_to_train.matching.tiled_masks import TiledMasks, intersections, pixel_reach, resize_masks

# Larger and smaller than the logits, not square, and a single row, column and pixel.
SIZES = [(33, 21), (16, 16), (7, 5), (1, 1), (70, 3), (1, 60), (47, 53)]


def noise(height: int, width: int) -> Tensor:
    return torch.randn(6, height, width)


def single_logits(height: int, width: int) -> Tensor:
    """Make masks of one logit each: the corners, the middle, and any place."""
    logits = torch.full((6, height, width), -0.7)
    rows = [0, 0, height - 1, height - 1, height // 2, int(torch.randint(height, ()))]
    columns = [0, width - 1, 0, width - 1, width // 2, int(torch.randint(width, ()))]
    logits[torch.arange(6), rows, columns] = 3.1
    return logits


def discs(height: int, width: int) -> Tensor:
    """Make discs, some across the border, and each one's opposite: masks that touch all borders."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    places = torch.rand(3, 3, 1, 1)
    distances = ((y - places[0] * height) ** 2 + (x - places[1] * width) ** 2).sqrt()
    logits = places[2] * 0.6 * max(height, width) - distances
    return torch.cat([logits, -logits])


def all_and_nothing(height: int, width: int) -> Tensor:
    values = torch.tensor([1.0, -1.0, 0.0, 1e-6, -1e-6, 1e4])
    return values[:, None, None].expand(6, height, width).contiguous()


def reference(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return resized logits, and whether they are 0 but for rounding."""
    # Axis by axis: torch 2.15 antialiases wrongly to a width of 1.
    rows, columns = (
        interpolation_matrix(source, target, logits.double())
        for source, target in zip(logits.shape[1:], size, strict=True)
    )
    resized = rows @ logits.double() @ columns.T
    return resized, resized.abs() < 1e-5 * logits.abs().amax().double()


@pytest.mark.parametrize("make", [noise, single_logits, discs, all_and_nothing])
@pytest.mark.parametrize("side", [1, 6, 32])
@pytest.mark.parametrize("size", SIZES)
def test_masks_and_what_they_share_are_exact(
    make: object, side: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiled_masks._LIMITS, "cpu", tiled_masks._Limits(side, 2**24))
    assert callable(make)
    for shape in ((16, 12), (20, 41), (1, 7), (33, 1), (1, 1)):
        logits = make(*shape)
        masks = resize_masks(logits, size)
        resized, undecided = reference(logits, size)
        if make is not all_and_nothing:
            assert torch.equal(masks | undecided, (resized > 0) | undecided)
        else:
            assert torch.equal(masks, (logits[:, :1, :1] > 0).expand_as(masks))
        flat = masks.flatten(1).double()
        assert torch.equal(intersections(logits, size).double(), flat @ flat.T)


def test_pixels_agree_with_torch_in_its_own_precision() -> None:
    logits = torch.randn(9, 64, 48)
    for size in ((120, 160), (41, 29), (64, 48)):
        resized = F.interpolate(logits[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
        differs = resize_masks(logits, size) != (resized > 0)
        assert not differs.any() or resized[differs].abs().max() < 1e-6


def test_a_smaller_image_averages_the_logits_under_each_pixel() -> None:
    # One logit of four, far above the others: without antialiasing the pixel in between them would miss it.
    logits = torch.full((1, 8, 8), -1.0)
    logits[0, 3, 3] = 100.0
    assert resize_masks(logits, (2, 2)).tolist() == [[[True, True], [True, True]]]
    logits[0, 3, 3] = 2.0
    assert not resize_masks(logits, (2, 2)).any()


def test_a_choice_of_masks_in_any_order() -> None:
    logits, chosen = discs(40, 50), torch.tensor([4, 0, 5, 4])
    tiled = TiledMasks(logits, (71, 93))
    masks = resize_masks(logits, (71, 93))[chosen]
    assert torch.equal(tiled.resized(chosen), masks)
    flat = masks.flatten(1).float()
    assert torch.equal(tiled.intersections(chosen), flat @ flat.T)
    assert tiled.resized(chosen[:0]).shape == (0, 71, 93)


def test_many_masks_and_large_images_have_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = discs(64, 64)
    whole = intersections(logits, (150, 170))
    monkeypatch.setitem(tiled_masks._LIMITS, "cpu", tiled_masks._Limits(32, 6 * 30 * 30))
    tiled = TiledMasks(logits, (150, 170))
    elements = [tile.masks.numel() for tile in tiled.tiles(torch.arange(6))]
    # Rows and columns of pixels do not divide evenly between tiles.
    assert 0 < max(elements) <= 2 * 6 * 30 * 30
    assert torch.equal(tiled.intersections(torch.arange(6)), whole)


def test_tiles_are_halved_until_they_fit() -> None:
    def sides(*shapes: tuple[int, int, int], size: tuple[int, int] = (1, 1)) -> list[int]:
        return [tiled_masks._tile_side(torch.empty(shape, dtype=torch.bool), size) for shape in shapes]

    # 2**24 pixels of all masks, of tiles of 32 x 32 logits at first.
    assert sides((2**14, 1, 1), (2**14 + 1, 1, 1), (2**16 + 1, 1, 1)) == [32, 16, 8]
    assert sides((1, 2, 8), (4, 2, 8), (4, 1, 8), size=(2**8, 2**10)) == [32, 16, 8]
    assert sides((1, 1, 1), size=(2**13, 2**12)) == [1]
    assert tiled_masks._tile_side(torch.empty(1, 256, 256, device="meta"), (480, 640)) == 32


def test_a_step_without_a_pixel_is_no_tile() -> None:
    tiled = TiledMasks(torch.ones(1, 70, 80), (1, 3))
    assert [(row.pixels, row.logits) for row in tiled.rows] == [(slice(0, 1), slice(0, 32 + 69))]
    assert [column.pixels for column in tiled.columns] == [slice(0, 2), slice(2, 3)]
    assert [(tile.rows, tile.columns, tile.area) for tile in tiled.tiles(torch.tensor([0]))] == [
        (slice(0, 1), slice(0, 2), 2),
        (slice(0, 1), slice(2, 3), 1),
    ]


@pytest.mark.parametrize(("size", "reach"), [((480, 640), 1), ((256, 256), 1), ((480, 64), 7), ((100, 256), 5)])
def test_the_reach_of_a_pixel(size: Any, reach: int) -> None:
    assert pixel_reach((256, 256), size) == reach


def test_uniform_tiles_are_not_resized() -> None:
    logits = all_and_nothing(64, 64)
    assert all(
        not len(tile.cut) and tile.full.tolist() == [0, 3, 5]
        for tile in TiledMasks(logits, (90, 90)).tiles(torch.arange(6))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_resized_in_float32(dtype: torch.dtype) -> None:
    logits = discs(40, 50).to(dtype)
    assert torch.equal(resize_masks(logits, (71, 93)), resize_masks(logits.float(), (71, 93)))


def test_nothing_is_nothing() -> None:
    assert resize_masks(torch.empty(0, 4, 4), (7, 5)).shape == (0, 7, 5)
    assert intersections(torch.empty(0, 4, 4), (7, 5)).shape == (0, 0)
