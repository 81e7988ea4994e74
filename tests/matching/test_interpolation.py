"""Resizing: NumPy gives what torch gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from no_time_to_train.matching.interpolation import (
    mask_on_grid,
    nearest_pixels,
    resize_map,
    touched_cells,
    window_means,
)

SIZES = [((7, 11), (16, 16)), ((37, 37), (32, 32)), ((256, 256), (32, 31)), ((5, 300), (64, 3)), ((1, 1), (3, 2))]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_a_map_is_resized_as_by_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=source).astype(np.float32)
    by_torch = resize_map(torch.from_numpy(values), target)
    assert by_torch.shape == target
    # Sums of up to 100 products in float32.
    np.testing.assert_allclose(resize_map(values, target), by_torch.numpy(), atol=2e-6)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize(("centered", "mode"), [(True, "nearest-exact"), (False, "nearest")])
def test_the_nearest_pixels_are_torchs(
    source: tuple[int, int], target: tuple[int, int], centered: bool, mode: str
) -> None:
    values = np.arange(2 * source[0] * source[1], dtype=np.float32).reshape(2, *source)
    expected = F.interpolate(torch.from_numpy(values)[:, None], size=target, mode=mode)[:, 0]
    assert np.array_equal(nearest_pixels(values, target, centered=centered), expected.numpy())
    assert torch.equal(nearest_pixels(torch.from_numpy(values), target, centered=centered), expected)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_means_of_what_cells_touch(source: tuple[int, int], target: tuple[int, int]) -> None:
    values = np.random.default_rng(1).integers(0, 256, (3, *source)).astype(np.uint8)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(values).double(), target)
    # Differences of cumulative sums in float64.
    np.testing.assert_allclose(window_means(values, target), expected.numpy(), rtol=1e-9)


def test_a_mask_on_the_patch_grid() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 15:45] = True
    expected = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=(4, 6))[0, 0] > 0
    assert np.array_equal(mask_on_grid(mask, (4, 6)), expected.numpy())
    assert torch.equal(mask_on_grid(torch.from_numpy(mask), (4, 6)), expected)
    # Between the pixels that stand for the patches.
    small = np.zeros((40, 60), dtype=bool)
    small[15, 25] = True
    on_grid = mask_on_grid(small, (4, 6))
    assert np.argwhere(on_grid).tolist() == [[1, 2]]
    assert np.array_equal(on_grid, F.adaptive_max_pool2d(torch.from_numpy(small)[None].float(), (4, 6))[0] > 0)
    assert np.array_equal(touched_cells(small, (4, 6)), on_grid)
