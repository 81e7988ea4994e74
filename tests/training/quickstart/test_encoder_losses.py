"""The encoder's losses: attributes, pooling, and classes made of directions."""

import pytest
import torch

from no_time_to_train.data.synthetic.classes import PALETTES
from no_time_to_train.data.synthetic.training_scenes import BASE_SHAPES, BASE_TEXTURES, TRAINING_KINDS
from no_time_to_train.training.quickstart.encoder_losses import (
    AttributeProxies,
    ObjectAttributes,
    attributes_of,
    pool_objects,
)


def test_attributes_are_those_of_the_kinds() -> None:
    rows = torch.tensor([0, 1, 63, 64, 700, 767])
    order = torch.tensor([0, 5, 2, 0, 1, 3])
    found = attributes_of(rows, order)
    for row, channels, shape, texture, colour in zip(rows.tolist(), order.tolist(), *found, strict=True):
        kind = TRAINING_KINDS[row]
        assert BASE_SHAPES[shape] == kind.shape
        assert BASE_TEXTURES[texture] == kind.texture
        assert list(PALETTES)[colour % len(PALETTES)] == kind.palette
        assert colour // len(PALETTES) == channels


def test_objects_are_pooled_by_coverage() -> None:
    instances = torch.zeros(2, 32, 32, dtype=torch.uint8)
    instances[0, :8, :8] = 1  # one cell of 8 pixels
    instances[0, 8:16, 0:12] = 2  # one cell, and half of its neighbour
    instances[1, 20:22, 20:22] = 1  # too little
    patches = torch.randn(2, 4, 4, 5)
    kinds = torch.full((2, 6), -1, dtype=torch.int16)
    kinds[0, :2] = torch.tensor([100, 200])
    kinds[1, 0] = 300
    pooled = pool_objects(patches, instances, kinds, torch.tensor([1, 0]))
    assert pooled.vectors.shape == (2, 5)
    torch.testing.assert_close(pooled.vectors[0], patches[0, 0, 0])
    torch.testing.assert_close(pooled.vectors[1], (patches[0, 1, 0] + 0.5 * patches[0, 1, 1]) / 1.5)
    torch.testing.assert_close(pooled.attributes, attributes_of(torch.tensor([100, 200]), torch.tensor([1, 1])))
    objects = pooled.patches[pooled.patch_objects >= 0]
    torch.testing.assert_close(objects.sum(dim=0), patches[0, 0, 0] + patches[0, 1, 0])
    # All cells but the two, the half one, and none of the second image's: its object covers a sixteenth of a cell.
    assert int((pooled.patch_objects == -1).sum()) == 13 + 16


@pytest.fixture
def proxies() -> AttributeProxies:
    return AttributeProxies(64)


def test_classes_are_alike_by_the_attributes_that_they_share() -> None:
    """With directions at right angles, by a third for each."""
    proxies = AttributeProxies(12 + 8 + 48)
    directions = 2.5 * torch.eye(68)  # their length is of no matter
    with torch.no_grad():
        proxies.shapes.copy_(directions[:12])
        proxies.textures.copy_(directions[12:20])
        proxies.colours.copy_(directions[20:])
    vectors = proxies.proxies()
    assert vectors.shape == (12 * 8 * 48 + 1, 68)
    classes = [(0, 0, 0), (0, 0, 5), (3, 0, 5), (3, 7, 9)]
    rows = proxies.class_index(ObjectAttributes(*(torch.tensor(column) for column in zip(*classes, strict=True))))
    shared = [[sum(a == b for a, b in zip(one, two, strict=True)) for two in classes] for one in classes]
    torch.testing.assert_close(vectors[rows] @ vectors[rows].T, torch.tensor(shared) / 3)


def test_features_at_their_proxies_are_classified(proxies: AttributeProxies) -> None:
    instances = torch.zeros(1, 32, 32, dtype=torch.uint8)
    instances[0, :16, :16], instances[0, 16:, 16:] = 1, 2
    kinds = torch.tensor([[5, 600, -1, -1, -1, -1]], dtype=torch.int16)
    directions = proxies.proxies().detach()
    rows = proxies.class_index(attributes_of(kinds[0, :2].long(), torch.tensor([2, 2])))
    patches = directions[-1].expand(1, 4, 4, 64).clone()
    patches[0, :2, :2], patches[0, 2:, 2:] = directions[rows[0]], directions[rows[1]]
    right = proxies(pool_objects(patches, instances, kinds, torch.tensor([2])))
    wrong = proxies(pool_objects(patches, instances, kinds, torch.tensor([3])))
    assert right["accuracy"] == 1
    assert wrong["accuracy"] == 0
    assert right["objects"] < wrong["objects"]
    assert right["patches"] < wrong["patches"]
    assert all(torch.isfinite(value) for value in right.values())


def test_a_batch_without_a_clear_object_has_a_loss_of_its_patches_alone(proxies: AttributeProxies) -> None:
    patches = torch.randn(1, 4, 4, 64, requires_grad=True)
    kinds = torch.full((1, 6), -1, dtype=torch.int16)
    losses = proxies(pool_objects(patches, torch.zeros(1, 32, 32, dtype=torch.uint8), kinds, torch.tensor([0])))
    assert losses["patches"] > 0
    for name in ("objects", "attributes", "accuracy"):
        assert losses[name] == 0
