"""The one collective that is needed beyond Lightning's: gathering plain objects of any size."""

from typing import TypeVar, cast

import torch.distributed

from no_time_to_train.errors import ProcessLostError

T = TypeVar("T")


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
