"""The one collective that is needed beyond Lightning's: gathering plain objects of any size."""

from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; a list of one without a process group.

    Every process must call it.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    gathered: list[T | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return [entry for entry in gathered if entry is not None]
