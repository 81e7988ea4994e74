"""Prompts lie where they should, and their masks are the objects'."""

import pytest
import torch
from torch.nn import functional

from no_time_to_train.training.quickstart.sam2_prompts import MASK_STRIDE, draw_prompts


@pytest.fixture
def instances() -> torch.Tensor:
    maps = torch.zeros(2, 64, 64, dtype=torch.uint8)
    maps[0, 8:24, 12:40] = 1
    maps[0, 30:60, 30:60] = 2
    maps[1, 4:30, 4:30] = 1
    return maps


def test_clicks_lie_on_the_object_of_their_mask(instances: torch.Tensor) -> None:
    prompts = draw_prompts(instances, 40, background=0.25)
    assert prompts.points.shape == (2, 40, 1, 2)
    assert 0.05 < (~prompts.on_object).float().mean() < 0.5
    for image in range(2):
        columns = (prompts.points[:, :, 0], prompts.masks, prompts.boxes, prompts.on_object)
        for point, mask, box, on in zip(*(column[image] for column in columns), strict=True):
            value = instances[image, int(point[1]), int(point[0])]
            assert bool(value > 0) == bool(on)
            if not on:
                assert mask.sum() == 0
                continue
            layer = (instances[image] == value).float()
            torch.testing.assert_close(mask, functional.avg_pool2d(layer[None], MASK_STRIDE)[0])
            y, x = layer.nonzero().T
            exact = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()
            assert (box - exact).abs().max() <= 0.1 * (exact[2:] - exact[:2]).max() + 1e-4
    assert len(prompts.points[0].unique(dim=0)) > 20  # type: ignore[no-untyped-call] # of torch


def test_every_pixel_of_an_object_can_be_clicked() -> None:
    maps = torch.zeros(1, 16, 16, dtype=torch.uint8)
    maps[0, 4:12, 6:14] = 1
    points = draw_prompts(maps, 2000, background=0.0).points[0, :, 0]
    assert len(points.unique(dim=0)) == 64  # type: ignore[no-untyped-call] # of torch


def test_second_clicks_are_on_the_object_or_beside_it(instances: torch.Tensor) -> None:
    prompts = draw_prompts(instances, 60, clicks=2, background=0.0)
    assert prompts.points.shape == (2, 60, 2, 2)
    assert bool(prompts.on_object.all())
    at = prompts.points.long()
    values = instances[torch.arange(2)[:, None, None], at[..., 1], at[..., 0]]
    same = values[..., 1] == values[..., 0]
    assert torch.equal(same, prompts.labels[..., 1] == 1)
    assert 0 < (~same).float().mean() < 0.5


def test_scenes_without_objects_or_without_background() -> None:
    maps = torch.zeros(2, 16, 16, dtype=torch.uint8)
    maps[1] = 1
    prompts = draw_prompts(maps, 5)
    assert not prompts.on_object[0].any()
    assert bool(prompts.on_object[1].all())
    assert bool((prompts.masks[1] == 1).all())
