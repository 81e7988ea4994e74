"""Many small steps do best on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread, and on as many as before afterwards.

    Steps of a fraction of a millisecond gain next to nothing from a second thread, and where other work keeps the
    cores busy each of them waits for that thread to be given one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
