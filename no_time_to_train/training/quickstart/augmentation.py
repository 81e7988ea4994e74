"""Augmentation of batches of synthetic scenes: crops, turns and colours, on tensors."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

# The six orders of the colour channels; an object's palette under another order is another palette.
CHANNEL_ORDERS: tuple[tuple[int, ...], ...] = tuple(itertools.permutations(range(3)))


class View(NamedTuple):
    """A batch as the models see it.

    Attributes:
        images: float32 in [0, 1], RGB.
        instances: Which object is seen at a pixel: 0 for the background, k + 1 for the k-th object.
        channel_order: Index into `CHANNEL_ORDERS` of the order that each image's channels were put in.
    """

    images: Float[Tensor, "B 3 S S"]
    instances: UInt8[Tensor, "B S S"]
    channel_order: Int[Tensor, " B"]


def random_view(
    images: UInt8[Tensor, "B H H 3"],
    instances: UInt8[Tensor, "B H H"],
    size: int,
    *,
    smallest_crop: float = 0.5,
    whole: float = 0.5,
    recolour: float = 1.0,
) -> View:
    """Cut, turn, mirror and recolour a batch at random, by torch's global generator.

    The cut and the turn are those of the whole batch, which keeps them cheap; colours are each image's own.

    Args:
        images: sRGB, 0-255.
        instances: As in `View`.
        size: Side of what comes out, in pixels.
        smallest_crop: Smallest side of the square that is cut out, as a share of the image's.
        whole: Probability of no cut.
        recolour: Probability that an image's colour channels are put in a random order.
    """
    count, side = images.shape[:2]
    cut = side if torch.rand(()) < whole else int(side * (smallest_crop + (1 - smallest_crop) * float(torch.rand(()))))
    top, left = (int(torch.randint(side - cut + 1, ())) for _ in range(2))
    rows, columns = slice(top, top + cut), slice(left, left + cut)
    pixels, labels = _resized(images[:, rows, columns], instances[:, rows, columns], size)
    turns, mirror = int(torch.randint(4, ())), bool(torch.rand(()) < 0.5)
    pixels, labels = pixels.rot90(turns, (2, 3)), labels.rot90(turns, (1, 2))
    if mirror:
        pixels, labels = pixels.flip(3), labels.flip(2)
    order = torch.randint(len(CHANNEL_ORDERS), (count,)) * (torch.rand(count) < recolour)
    channels = torch.tensor(CHANNEL_ORDERS)[order].to(pixels.device)
    pixels = pixels.gather(1, channels[:, :, None, None].expand_as(pixels))
    gain = (1 + 0.15 * torch.randn(count, 3, 1, 1)).clamp(0.6, 1.5).to(pixels.device)
    shift = 0.05 * torch.randn(count, 1, 1, 1).to(pixels.device)
    return View((pixels * gain + shift).clamp(0, 1), labels, order.to(pixels.device))


def whole_view(images: UInt8[Tensor, "B H H 3"], instances: UInt8[Tensor, "B H H"], size: int) -> View:
    """Bring a batch to `size` and leave it as it is otherwise."""
    pixels, labels = _resized(images, instances, size)
    return View(pixels, labels, torch.zeros(len(images), dtype=torch.int64, device=pixels.device))


def _resized(
    images: UInt8[Tensor, "B H W 3"], instances: UInt8[Tensor, "B H W"], size: int
) -> tuple[Float[Tensor, "B 3 S S"], UInt8[Tensor, "B S S"]]:
    pixels = functional.interpolate(
        images.permute(0, 3, 1, 2).float() / 255, (size, size), mode="bilinear", antialias=True
    )
    labels = functional.interpolate(instances[:, None].float(), (size, size), mode="nearest-exact")
    return pixels, labels[:, 0].to(torch.uint8)
