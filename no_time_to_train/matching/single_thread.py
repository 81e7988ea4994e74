"""Small steps run fastest on one CPU thread."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch's CPU operators on one thread, and on as many as before afterwards.

    Steps of a fraction of a millisecond gain next to nothing from a second thread, and where other work keeps the
    cores busy each of them waits for that thread to be scheduled.

    Only the calling thread is affected. `torch.set_num_threads` is not used, because it also sets the number with
    which every new thread of the process starts.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.get_num_threads()  # sets this thread's number on its first use of torch, which must not happen inside
    with _openmp().limit(limits=1):
        yield


@cache
def _openmp() -> Any:
    controller: Any = ThreadpoolController  # it has no types
    return controller().select(user_api="openmp")
