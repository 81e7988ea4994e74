"""Without a GPU nothing is captured; what a GPU does is in tests/gpu."""

import copy
import pickle
from functools import partial

import torch
from torch import Tensor, nn

from no_time_to_train.encoders.cuda_graphs import Replayed, _is_half


def doubled(network: nn.Linear, pixels: Tensor) -> tuple[Tensor, Tensor]:
    found = network(pixels)
    return found, 2 * found


def test_a_cpu_computes_every_time() -> None:
    network = nn.Linear(4, 3, dtype=torch.bfloat16)
    replayed, pixels = Replayed(partial(doubled, network), network), torch.ones(1, 4, dtype=torch.bfloat16)
    for _ in range(4):
        first, second = replayed(pixels)
        assert torch.equal(first, network(pixels))
        assert torch.equal(second, 2 * first)
        with torch.no_grad():
            network.weight.add_(1)


def test_copies_are_of_their_own_network() -> None:
    network = nn.Linear(4, 3)
    replayed, pixels = Replayed(partial(doubled, network), network), torch.ones(1, 4)
    for copied in (copy.deepcopy(replayed), pickle.loads(pickle.dumps(replayed))):
        before = copied(pixels)[0]
        with torch.no_grad():
            network.weight.add_(1)
        assert torch.equal(copied(pixels)[0], before)
        assert not torch.equal(replayed(pixels)[0], before)


def test_what_is_in_half_precision() -> None:
    assert _is_half(nn.Linear(2, 2, dtype=torch.float16))
    assert not _is_half(nn.Linear(2, 2))
    assert not _is_half(nn.Identity())
