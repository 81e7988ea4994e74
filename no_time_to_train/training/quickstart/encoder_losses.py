"""What the tiny encoder is trained by: objects and patches told apart by shape, texture and palette."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from no_time_to_train.data.synthetic.classes import PALETTES
from no_time_to_train.data.synthetic.training_scenes import BASE_SHAPES, BASE_TEXTURES, TRAINING_KINDS
from no_time_to_train.training.quickstart.augmentation import CHANNEL_ORDERS

NUM_SHAPES, NUM_TEXTURES, NUM_PALETTES = len(BASE_SHAPES), len(BASE_TEXTURES), len(PALETTES)
_LEAST_COVERAGE = 0.6
_LEAST_CELLS = 0.5


class ObjectAttributes(NamedTuple):
    """What N objects are.

    Attributes:
        shape: Index into the base shapes.
        texture: Index into the base textures.
        colour: Index of palette and channel order together.
    """

    shape: Int[Tensor, " N"]
    texture: Int[Tensor, " N"]
    colour: Int[Tensor, " N"]


class PooledObjects(NamedTuple):
    """The objects of a batch, and some of its patches.

    Attributes:
        vectors: Mean patch feature of each object, weighted by coverage.
        attributes: What the objects are.
        patches: Single patch features.
        patch_objects: Row of the object that each patch shows, -1 for the background.
    """

    vectors: Float[Tensor, "N D"]
    attributes: ObjectAttributes
    patches: Float[Tensor, "M D"]
    patch_objects: Int[Tensor, " M"]


def attributes_of(kinds: Int[Tensor, " N"], channel_order: Int[Tensor, " N"]) -> ObjectAttributes:
    """Take indices into `TRAINING_KINDS` apart; a palette in another order of channels is another colour."""
    assert len(TRAINING_KINDS) == NUM_SHAPES * NUM_TEXTURES * NUM_PALETTES
    palette = kinds % NUM_PALETTES
    return ObjectAttributes(
        kinds // (NUM_TEXTURES * NUM_PALETTES),
        kinds // NUM_PALETTES % NUM_TEXTURES,
        palette + NUM_PALETTES * channel_order,
    )


def pool_objects(
    patches: Float[Tensor, "B h w D"],
    instances: UInt8[Tensor, "B S S"],
    kinds: Int[Tensor, "B O"],
    channel_order: Int[Tensor, " B"],
    *,
    most_patches: int = 512,
) -> PooledObjects:
    """Average the features of each object, and draw patches that show one thing alone.

    Args:
        patches: Features of the whole images.
        instances: 0 for the background, k + 1 for the k-th object.
        kinds: Index into `TRAINING_KINDS` of each object, -1 where there is none.
        channel_order: Index into the orders of colour channels of each image.
        most_patches: Of objects, and of the background.
    """
    side = instances.shape[1] // patches.shape[1]
    device = instances.device
    layers = instances[:, None] == torch.arange(kinds.shape[1] + 1, dtype=torch.uint8, device=device)[:, None, None]
    coverage = functional.avg_pool2d(layers.float(), side).flatten(2)
    flat = patches.flatten(1, 2)
    seen = coverage[:, 1:].sum(dim=2) >= _LEAST_CELLS
    image, place = seen.nonzero(as_tuple=True)
    weights = coverage[image, place + 1]
    vectors = (weights[:, None] @ flat[image])[:, 0] / weights.sum(dim=1, keepdim=True)
    rows = torch.full((len(instances), kinds.shape[1] + 1), -1, device=device)
    rows[image, place + 1] = torch.arange(len(image), device=device)
    share, owner = coverage.max(dim=1)
    owner_row = rows.gather(1, owner)
    clear = share >= _LEAST_COVERAGE
    chosen = [
        picked[torch.randperm(len(picked), device=device)[:most_patches]]
        for picked in ((clear & (owner > 0) & (owner_row >= 0)).nonzero(), (clear & (owner == 0)).nonzero())
    ]
    at = torch.cat(chosen)
    return PooledObjects(
        vectors,
        attributes_of(kinds[image, place].long(), channel_order[image]),
        flat[at[:, 0], at[:, 1]],
        owner_row[at[:, 0], at[:, 1]],
    )


class AttributeProxies(nn.Module):
    """A direction for every shape, texture and colour; a class lies where its three directions add up.

    Features are classified by their cosine with all classes and the background. Since the classes share directions,
    two that have one attribute in common are alike by a third, and a class never seen lies between those it is made of.

    Args:
        width: Width of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shapes = nn.Parameter(torch.randn(NUM_SHAPES, width))
        self.textures = nn.Parameter(torch.randn(NUM_TEXTURES, width))
        self.colours = nn.Parameter(torch.randn(NUM_PALETTES * len(CHANNEL_ORDERS), width))
        self.background = nn.Parameter(torch.randn(1, width))
        self.scale = nn.Parameter(torch.tensor(2.5))  # of its logarithm
        self.heads = nn.ModuleList([nn.Linear(width, count) for count in (NUM_SHAPES, NUM_TEXTURES, len(self.colours))])

    def class_index(self, attributes: ObjectAttributes) -> Int[Tensor, " N"]:
        """Return the row of `proxies` of each object."""
        return (attributes.shape * NUM_TEXTURES + attributes.texture) * len(self.colours) + attributes.colour

    def proxies(self) -> Float[Tensor, "K D"]:
        """Return the unit vectors of all classes, and last that of the background."""
        shapes, textures, colours = (functional.normalize(p, dim=1) for p in (self.shapes, self.textures, self.colours))
        classes = shapes[:, None, None] + textures[None, :, None] + colours
        return functional.normalize(torch.cat((classes.flatten(0, 2), self.background)), dim=1)

    def forward(self, pooled: PooledObjects) -> dict[str, Float[Tensor, ""]]:
        """Return the losses by name, and the share of objects classified right as `accuracy`."""
        proxies = self.proxies()
        rows = self.class_index(pooled.attributes)
        # The last class is the background.
        patch_rows = torch.cat((rows, rows.new_tensor([len(proxies) - 1])))[pooled.patch_objects]
        scale = self.scale.exp().clamp(max=40)
        objects = scale * functional.normalize(pooled.vectors, dim=1) @ proxies.T
        patches = scale * functional.normalize(pooled.patches, dim=1) @ proxies.T
        heads = [
            _cross_entropy(head(pooled.vectors), target)
            for head, target in zip(self.heads, pooled.attributes, strict=True)
        ]
        return {
            "objects": _cross_entropy(objects, rows),
            "patches": _cross_entropy(patches, patch_rows),
            "attributes": torch.stack(heads).sum(),
            "accuracy": (objects.argmax(dim=1) == rows).float().sum() / max(1, len(rows)),
        }


def _cross_entropy(logits: Float[Tensor, "N K"], target: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return the mean, or 0 where a batch shows nothing."""
    return functional.cross_entropy(logits, target, reduction="sum") / max(1, len(target))
