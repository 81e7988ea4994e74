"""Random prompts with their true masks, drawn from maps of instances."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

MASK_STRIDE = 4
_SMALLEST = 40  # pixels; below it an object is a speck at the border of a cut


class PromptBatch(NamedTuple):
    """P prompts an image, each with what it should give.

    Attributes:
        points: x and y in pixels of the image; 2 points where there is a second click.
        labels: 1 for a point on the object, 0 for one beside it.
        boxes: xyxy in pixels of the image, a little off; of no meaning where `on_object` is false.
        masks: Share of each cell of `MASK_STRIDE` pixels that the object covers, 0-1; zero for the background.
        on_object: The first point lies on an object, and not on the background.
    """

    points: Float[Tensor, "B P K 2"]
    labels: Int[Tensor, "B P K"]
    boxes: Float[Tensor, "B P 4"]
    masks: Float[Tensor, "B P Hm Wm"]
    on_object: Bool[Tensor, "B P"]


def draw_prompts(
    instances: UInt8[Tensor, "B S S"], count: int, *, clicks: int = 1, background: float = 0.2
) -> PromptBatch:
    """Draw prompts: a random object each, a random pixel of it, and the box around it.

    Args:
        instances: 0 for the background, k + 1 for the k-th object.
        count: Prompts an image.
        clicks: Points a prompt, 1 or 2. The second one lies on the object or near it, half and half.
        background: Share of prompts whose point lies on the background.
    """
    (batch, size, _), device = instances.shape, instances.device
    most = max(1, int(instances.max()))
    # Row 0 is the background; the others are objects that may be missing in an image.
    layers = instances[:, None] == torch.arange(most + 1, dtype=torch.uint8, device=device)[:, None, None]
    covered = functional.avg_pool2d(layers.float(), MASK_STRIDE)
    areas = layers.sum(dim=(2, 3))
    weights = (areas[:, 1:] >= _SMALLEST).float()
    empty = weights.sum(dim=1) == 0
    weights[empty, 0] = 1.0
    chosen = torch.multinomial(weights, count, replacement=True) + 1
    on_object = (torch.rand(batch, count, device=device) >= background) & ~empty[:, None]
    on_object |= areas[:, :1] == 0
    chosen = torch.where(on_object, chosen, 0)
    rows = torch.arange(batch, device=device)[:, None]
    masks = covered[rows, chosen] * on_object[:, :, None, None]
    boxes = _jittered_boxes(layers)[rows, chosen]
    points = [_as_points(_random_pixels(instances, chosen, areas), size)]
    labels = [torch.ones(batch, count, dtype=torch.int64, device=device)]
    if clicks == 2:
        again = _as_points(_random_pixels(instances, chosen, areas), size)
        anywhere = boxes[..., :2] + torch.rand(batch, count, 2, device=device) * (boxes[..., 2:] - boxes[..., :2])
        anywhere = anywhere.round().clamp(0, size - 1)
        at = anywhere.long()
        beside = instances[rows, at[..., 1], at[..., 0]] != chosen
        second = (torch.rand(batch, count, device=device) < 0.5) & beside
        points.append(torch.where(second[..., None], anywhere, again))
        labels.append((~second).long())
    return PromptBatch(torch.stack(points, dim=2), torch.stack(labels, dim=2), boxes, masks, on_object)


def _random_pixels(
    instances: UInt8[Tensor, "B S S"], chosen: Int[Tensor, "B P"], areas: Int[Tensor, "B L"]
) -> Int[Tensor, "B P"]:
    """Draw a pixel of each chosen layer, uniformly; any pixel where a layer is empty."""
    # Sorted by layer, an image's pixels lie one layer behind the other.
    order = instances.flatten(1).argsort(dim=1, stable=True)
    first = functional.pad(areas.cumsum(dim=1), (1, 0))[:, :-1].gather(1, chosen)
    place = first + (torch.rand(chosen.shape, device=chosen.device) * areas.gather(1, chosen)).long()
    return order.gather(1, place.clamp(max=order.shape[1] - 1))


def _as_points(pixel: Int[Tensor, "B P"], size: int) -> Float[Tensor, "B P 2"]:
    return torch.stack((pixel % size, pixel // size), dim=-1).float()


def _jittered_boxes(layers: Bool[Tensor, "B L S S"]) -> Float[Tensor, "B L 4"]:
    """Return the boxes around layers, each side moved by up to a tenth of the box."""
    size = layers.shape[-1]
    edges = []
    for axis in (2, 3):  # columns, then rows
        used = layers.any(dim=axis)
        first = used.float().argmax(dim=2).float()
        last = size - used.flip(2).float().argmax(dim=2).float()
        edges.append((first, last))
    (x0, x1), (y0, y1) = edges
    boxes = torch.stack((x0, y0, x1, y1), dim=2)
    extent = torch.stack((x1 - x0, y1 - y0, x1 - x0, y1 - y0), dim=2)
    return (boxes + 0.1 * extent * (2 * torch.rand_like(boxes) - 1)).clamp(0, size)
