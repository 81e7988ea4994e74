"""Without a GPU nothing is captured; what a GPU does is in tests/gpu."""

import copy
import pickle
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from no_time_to_train.encoders.cuda_graphs import Replayed, _merged, is_one_half_image


class Found(NamedTuple):
    whole: Tensor
    parts: tuple[Tensor | None, nn.Module]


def doubled(network: nn.Linear, pixels: Tensor) -> Found:
    found = network(pixels)
    return Found(found, (2 * found, network))


def test_a_cpu_computes_every_time() -> None:
    network = nn.Linear(4, 3, dtype=torch.bfloat16)
    replayed = Replayed(partial(doubled, network), network, is_one_half_image)
    pixels = torch.ones(1, 4, dtype=torch.bfloat16)
    for _ in range(4):
        found = replayed(pixels)
        assert torch.equal(found.whole, network(pixels))
        assert torch.equal(found.parts[0], 2 * found.whole)
        with torch.no_grad():
            network.weight.add_(1)


def test_copies_are_of_their_own_network() -> None:
    network = nn.Linear(4, 3)
    replayed, pixels = Replayed(partial(doubled, network), network, is_one_half_image), torch.ones(1, 4)
    for copied in (copy.deepcopy(replayed), pickle.loads(pickle.dumps(replayed))):
        before = copied(pixels)[0]
        with torch.no_grad():
            network.weight.add_(1)
        assert torch.equal(copied(pixels)[0], before)
        assert not torch.equal(replayed(pixels)[0], before)


def test_what_is_replayed_of_an_encoder() -> None:
    half, image = nn.Linear(2, 2, dtype=torch.float16), torch.ones(1, 3, 2, 2)
    assert is_one_half_image(half, image)
    assert not is_one_half_image(half, torch.ones(2, 3, 2, 2))
    assert not is_one_half_image(nn.Linear(2, 2), image)
    assert not is_one_half_image(nn.Identity(), image)


def test_tensors_take_their_places() -> None:
    first, second = torch.ones(1), torch.ones(2)
    assert _merged([first, second], [torch.zeros(1), None, 3, torch.zeros(2)]) == [first, None, 3, second]
