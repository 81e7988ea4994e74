"""The search for prompts, with masks that are known: an object gives its own mask to every point in it."""

import pytest
import torch
from torch import Tensor

from no_time_to_train.matching import MemoryBank
from no_time_to_train.proposers.base import MaskProposals
from no_time_to_train.proposers.prior_guided import PriorSearch

SIDE = 16  # of patches, points and masks alike, a pixel each
OBJECT, OTHER, GROUND = torch.eye(3)


class Scene:
    """Objects on a ground, and a SAM2 that draws the object under a point, or all of the ground."""

    def __init__(self, *objects: tuple[slice, slice], features: Tensor = OBJECT) -> None:
        self.patches = GROUND.expand(SIDE, SIDE, 3).clone()
        self.masks: list[Tensor] = []
        for where in objects:
            self.patches[where] = features
            self.masks.append(torch.full((SIDE, SIDE), -5.0))
            self.masks[-1][where] = 5.0
        self.rounds: list[list[tuple[int, int]]] = []

    def ask(self, points: Tensor) -> MaskProposals:
        self.rounds.append([(int(x), int(y)) for x, y in points.tolist()])
        drawn = [next((m for m in self.masks if m[y, x] > 0), self._ground()) for x, y in self.rounds[-1]]
        logits = torch.stack(drawn) if drawn else torch.empty(0, SIDE, SIDE)
        return MaskProposals(logits, torch.full((len(drawn),), 0.9))

    def _ground(self) -> Tensor:
        return torch.full((SIDE, SIDE), 5.0)

    def search(self, **settings: float) -> MaskProposals:
        memory = MemoryBank(["object"], 3, "test")
        memory.add_mean(0, OBJECT)
        chosen = {"points_per_side": SIDE, "max_prompts": 64, "threshold": 0.3, **settings}
        return PriorSearch(**chosen)(self.patches, memory, SIDE, self.ask)  # type: ignore[arg-type] # ints are floats

    @property
    def asked(self) -> list[tuple[int, int]]:
        return [point for points in self.rounds for point in points]


def _found(masks: MaskProposals, scene: Scene) -> list[bool]:
    return [any(torch.equal(mask > 0, one > 0) for one in masks.mask_logits) for mask in scene.masks]


def test_only_what_resembles_a_class_is_asked_for() -> None:
    scene = Scene((slice(2, 6), slice(9, 13)))
    masks = scene.search()
    assert _found(masks, scene) == [True]
    assert 0 < len(scene.asked) <= 4
    assert all(2 <= y < 6 and 9 <= x < 13 for x, y in scene.asked)


def test_every_object_is_found_even_a_single_patch() -> None:
    scene = Scene((slice(1, 5), slice(1, 5)), (slice(10, 15), slice(2, 7)), (slice(8, 9), slice(12, 13)))
    assert _found(scene.search(), scene) == [True, True, True]
    # Of a grid of 256.
    assert len(scene.asked) <= 12


def test_neighbours_within_one_cell_are_both_found() -> None:
    scene = Scene((slice(0, 2), slice(0, 4)), (slice(2, 4), slice(0, 4)))
    assert _found(scene.search(), scene) == [True, True]
    assert len(scene.rounds) > 1


def test_a_mask_of_everything_explains_nothing() -> None:
    scene = Scene((slice(4, 8), slice(4, 8)))
    own = scene.masks.pop()
    scene.search()
    # No mask resembles the class as its points do, so that all of them are asked for in the end.
    assert set(scene.asked) == {(int(x), int(y)) for y, x in (own > 0).nonzero().tolist()}


def test_prompts_are_limited() -> None:
    scene = Scene((slice(0, 16), slice(0, 7)))
    scene.masks.clear()
    scene.search(max_prompts=10)
    assert len(scene.asked) == 10


def test_no_point_is_asked_for_twice() -> None:
    scene = Scene((slice(0, 16), slice(0, 7)))
    scene.masks.clear()
    scene.search(max_prompts=1000)
    assert len(set(scene.asked)) == len(scene.asked) == 16 * 7


def test_the_best_points_come_first() -> None:
    scene = Scene((slice(1, 3), slice(1, 3)))
    scene.patches[10:12, 10:12] = OBJECT + 0.5 * OTHER
    scene.search(max_prompts=1)
    ((x, y),) = scene.asked
    assert x in (1, 2)
    assert y in (1, 2)


@pytest.mark.parametrize("features", [GROUND, OBJECT])
def test_an_image_of_one_colour_ends(features: Tensor) -> None:
    scene = Scene((slice(0, 16), slice(0, 16)), features=features)
    masks = scene.search()
    assert len(masks.mask_logits) == len(scene.asked) <= 64


@pytest.mark.parametrize("side", [1, 3, 6])
def test_grids_that_no_power_of_two_divides(side: int) -> None:
    scene = Scene((slice(0, 16), slice(0, 5)))
    scene.search(points_per_side=side)
    assert 0 < len(scene.asked) <= side * side


def test_poor_masks_may_be_kept_back() -> None:
    scene = Scene((slice(2, 6), slice(9, 13)))
    nothing = MaskProposals(torch.empty(0, SIDE, SIDE), torch.empty(0))
    memory = MemoryBank(["object"], 3, "test")
    memory.add_mean(0, OBJECT)
    found = PriorSearch(SIDE, 64, 0.3)(scene.patches, memory, SIDE, lambda _: nothing)
    assert len(found.mask_logits) == 0
