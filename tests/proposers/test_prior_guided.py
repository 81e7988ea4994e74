"""The search for prompts, with masks that are known: an object gives its own mask to every point in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from no_time_to_train.configs.pipeline import Sam2InferConfig
from no_time_to_train.matching import MemoryBank
from no_time_to_train.proposers.base import MaskProposals, Prompts
from no_time_to_train.proposers.prior_guided import GuidedProposer, PriorSearch, _best_of_cells, _between, _coarsest
from tests.proposers.toy import ToyPromptable

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


@pytest.mark.parametrize(("side", "cell"), [(1, 1), (7, 1), (8, 2), (15, 2), (16, 4), (31, 4), (32, 8)])
def test_four_cells_each_way_at_first(side: int, cell: int) -> None:
    assert _coarsest(side) == cell


def test_the_best_of_each_cell() -> None:
    nothing = -np.inf
    values = np.array(
        [
            [1.0, 2.0, 0.0, 9.0, 3.0],
            [0.0, 2.0, 0.0, 0.0, 4.0],
            [nothing, nothing, 5.0, 5.0, 4.0],
            [nothing, nothing, 5.0, 5.0, 0.0],
            [0.5, -1.0, nothing, nothing, 7.0],
        ]
    )
    # Cells of the last column and row are cut. Of equals the first counts, in a cell and in the order of cells.
    assert _best_of_cells(values, 2).tolist() == [3, 24, 12, 9, 14, 1, 20]
    assert _best_of_cells(values, 5).tolist() == [3]
    assert _best_of_cells(np.full((3, 3), nothing), 2).tolist() == []


def test_between_the_median_and_the_highest() -> None:
    values = np.array([[0.0, 8.0], [2.0, 3.0]])  # of an even number the lower median
    assert [_between(values, share) for share in (0.0, 0.5, 1.0)] == [2, 5, 8]


def test_cells_halve() -> None:
    scene = Scene(features=OBJECT)
    scene.patches[:] = OBJECT
    nothing = torch.full((SIDE, SIDE), -5.0)

    def ask(points: Tensor) -> MaskProposals:
        scene.ask(points)
        return MaskProposals(nothing.expand(len(points), -1, -1), torch.ones(len(points)))

    memory = MemoryBank(["object"], 3, "test")
    memory.add_mean(0, OBJECT)
    masks = PriorSearch(SIDE, 1000, 0.3)(scene.patches, memory, SIDE, ask)
    # The first of each 4 x 4 points, the first of each 2 x 2 points that is left, and all others.
    corners = {(x, y) for y in range(0, SIDE, 4) for x in range(0, SIDE, 4)}
    next_ones = {(x + ((x, y) in corners), y) for y in range(0, SIDE, 2) for x in range(0, SIDE, 2)}
    every = {(x, y) for y in range(SIDE) for x in range(SIDE)}
    assert [set(points) for points in scene.rounds] == [corners, next_ones, every - corners - next_ones]
    assert len(scene.asked) == len(masks.mask_logits) == 256


def test_a_point_at_the_threshold_is_asked_for() -> None:
    scene = Scene((slice(4, 8), slice(4, 8)), features=OBJECT + OTHER)
    scene.patches[6, 5] = OBJECT
    scene.search(threshold=1.0)
    assert scene.asked == [(5, 6)]


def test_a_logit_of_zero_explains_nothing() -> None:
    scene = Scene((slice(0, 2), slice(0, 4)), (slice(2, 4), slice(0, 4)))
    scene.masks = [mask.clamp(min=0) for mask in scene.masks]
    assert _found(scene.search(), scene) == [True, True]


def test_patches_masks_and_points_of_other_sizes() -> None:
    # Of 4 x 8 patches one resembles the class: row 1, column 6. In an image of 64 pixels it is x 48 to 56, y 16 to 32.
    patches = GROUND.expand(4, 8, 3).clone()
    patches[1, 6] = OBJECT
    memory = MemoryBank(["object"], 3, "test")
    memory.add_mean(0, OBJECT)
    asked: list[list[float]] = []

    def ask(points: Tensor) -> MaskProposals:
        asked.extend(points.tolist())
        masks = torch.full((len(points), 32, 32), -5.0)
        masks[:, 8:16, 24:28] = 5.0
        return MaskProposals(masks, torch.ones(len(points)))

    # A grid of 8 x 8 points, 8 pixels apart: the patch holds two of them, and the mask of the first explains the other.
    PriorSearch(points_per_side=8, max_prompts=64, threshold=0.6)(patches, memory, 64, ask)
    assert asked == [[52.0, 20.0]]


def test_settings_reach_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper right quarter of an image is white, and its patches are those of the class."""
    model = ToyPromptable()
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :32, 32:] = 255
    patches = GROUND.expand(8, 8, 3).clone()
    patches[:4, 4:] = OBJECT
    memory = MemoryBank(["object"], 3, "test")
    memory.add_mean(0, OBJECT)
    asked: list[tuple[int, float | None, int]] = []
    best_masks = model.best_masks

    def recorded(image: Tensor, prompts: Prompts, *, min_iou: float | None, batch_size: int) -> MaskProposals:
        asked.append((len(prompts), min_iou, batch_size))
        return best_masks(image, prompts, min_iou=min_iou, batch_size=batch_size)

    monkeypatch.setattr(model, "best_masks", recorded)
    config = Sam2InferConfig(points_per_side=8, testing_point_bs=3, iou_thr=0.5, max_prompts=2, prior_threshold=0.5)
    proposer = GuidedProposer(model, config)
    assert proposer.uses_memory
    masks = proposer(model.embed(model.preprocess(image)), patches, memory)
    # The search could ask in each of four cells; the mask explains all that is left.
    assert asked == [(2, 0.5, 3)]
    white = torch.zeros(32, 32, dtype=torch.bool)
    white[:16, 16:] = True
    assert torch.equal(masks.mask_logits > 0, white.expand(2, -1, -1))
    others = [
        replace(config, points_per_side=9),
        replace(config, iou_thr=0.4),
        replace(config, max_prompts=3),
        replace(config, prior_threshold=0.4),
    ]
    assert len({GuidedProposer(model, each).settings for each in (config, *others)}) == 5
