"""Views keep pixels and instances together."""

import torch

from no_time_to_train.training.quickstart.augmentation import CHANNEL_ORDERS, random_view, whole_view


def scenes(count: int = 4, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes whose red channel says which instance a pixel is of."""
    instances = torch.zeros(count, side, side, dtype=torch.uint8)
    instances[:, 8:40, 16:56] = 1
    instances[:, 30:60, 4:30] = 2
    images = torch.zeros(count, side, side, 3, dtype=torch.uint8)
    images[..., 0] = instances * 100
    return images, instances


def test_whole_view_changes_the_size_alone() -> None:
    images, instances = scenes()
    view = whole_view(images, instances, 64)
    torch.testing.assert_close(view.images, images.permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(view.instances, instances)
    assert whole_view(images, instances, 32).images.shape == (4, 3, 32, 32)


def test_pixels_and_instances_move_together() -> None:
    images, instances = scenes()
    moved = False
    for _ in range(20):
        view = random_view(images, instances, 64, recolour=0.0)
        red = view.images[:, 0]
        first, second = (red[0][view.instances[0] == value] for value in (1, 2))
        if len(first) and len(second):
            # Interpolation blurs the borders, gain and shift act on all alike.
            assert first.median() < second.median()
            assert (red[0][view.instances[0] == 0].median() <= first.median()) or not (view.instances[0] == 0).any()
        moved |= not torch.equal(view.instances, instances)
    assert moved


def test_crops_stay_within_their_bounds() -> None:
    """Where the map of instances holds each pixel's column, the columns that are left tell the cut."""
    columns = torch.arange(64, dtype=torch.uint8).expand(1, 64, 64)
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    widths = []
    for _ in range(40):
        seen = random_view(images, columns, 64, smallest_crop=0.5, whole=0.0).instances
        widths.append(int(seen.max()) - int(seen.min()) + 1)
    assert 32 <= min(widths) < 40
    assert 56 < max(widths) <= 64
    assert all(
        torch.equal(random_view(images, columns, 64, whole=1.0).instances.unique(), columns[0, 0])  # type: ignore[no-untyped-call] # of torch
        for _ in range(5)
    )


def test_channel_order_says_what_was_done() -> None:
    images = torch.tensor([40, 120, 220], dtype=torch.uint8).expand(32, 16, 16, 3)
    view = random_view(images, torch.zeros(32, 16, 16, dtype=torch.uint8), 16)
    assert len(view.channel_order.unique()) > 3  # type: ignore[no-untyped-call] # of torch
    agree = [
        CHANNEL_ORDERS[order][int(picture.mean(dim=(1, 2)).argmax())] == 2
        for picture, order in zip(view.images, view.channel_order, strict=True)
    ]
    # Gains of 15 % make 120 outshine 220 once in some hundred images.
    assert sum(agree) >= 30
