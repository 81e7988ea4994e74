"""What is needed beyond Lightning's: which process this is, and gathering plain objects of any size."""

from typing import TypeVar, cast

import torch.distributed

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
