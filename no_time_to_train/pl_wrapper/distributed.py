"""Share work among processes: ranks, plain objects of any size, samplers without repetition."""

from collections.abc import Iterator, Sized
from typing import Any, TypeVar, cast

import torch.distributed
from torch.utils.data import DistributedSampler

from no_time_to_train.errors import ProcessLostError

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes; 0 and 1 without a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather_objects(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; a list of one without a process group.

    Every process must call it.

    Raises:
        ProcessLostError: Another process ended before it came here.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    gathered: list[T | None] = [None] * torch.distributed.get_world_size()
    try:
        torch.distributed.all_gather_object(gathered, value)
    except RuntimeError as error:
        raise ProcessLostError(
            f"process {torch.distributed.get_rank()} has lost another one: {str(error).splitlines()[0]}",
            remedy="the other process's own message says why it ended",
        ) from error
    return cast(list[T], gathered)


class NonRepeatingSampler(DistributedSampler[int]):
    """Deals items out to the processes in turn, none twice; a process may get none.

    Lightning's own samplers repeat items or demand one for each process.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(cast(Any, dataset), num_replicas=num_replicas, rank=rank, shuffle=False)
        self._indices = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        """Give this process's items in order."""
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
