"""Many small computations on a CPU, each by one thread, instead of one after the other by all threads together.

A product that takes a tenth of a millisecond is not worth waking all threads for and waiting for the last of them.
Where other programs use the processor too, that last one may be late by a hundred times as much (ADR 16).
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Each has its own memory; torch's other threads are shared out among them.
MOST_WORKERS = 8


def map_ahead(
    pool: Executor, function: Callable[[_Item], _Result], items: Sequence[_Item], ahead: int
) -> Iterator[_Result]:
    """Call a function of each item in a pool, and give the results in order.

    Args:
        pool: Where it is called.
        function: What is called.
        items: The first `ahead` of them are begun at once.
        ahead: As many results are computed ahead of the caller.
    """
    waiting = deque(pool.submit(function, item) for item in items[:ahead])

    def results() -> Iterator[_Result]:
        for item in items[ahead:]:
            waiting.append(pool.submit(function, item))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    return results()


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Generator[_Result, None, None]:
    """Call a function of each item, in as many threads as torch computes with, and yield the results in order.

    The threads live as long as the iterator, so that a process can fork, and ends, as without them. As many results as
    there are threads are computed ahead of the caller.

    Args:
        function: Called in several threads at a time, in which torch is in its default modes.
        items: With only one, or where torch has only one thread, all is done in the caller's thread.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(items), MOST_WORKERS)
    if workers < 2:
        yield from map(function, items)
        return
    ready, go = threading.Semaphore(0), threading.Event()

    def start() -> None:
        torch.get_num_threads()  # otherwise torch would set its default at the first operation
        torch.set_num_threads(threads // workers)
        ready.release()
        go.wait()

    with ThreadPoolExecutor(workers, "prompts", start) as pool:
        try:
            results = map_ahead(pool, function, items, workers)
            for _ in range(workers):
                ready.acquire()
            # Besides its own number a thread sets that of threads to come.
            torch.set_num_threads(threads)
            go.set()
            yield from results
        finally:
            go.set()
            pool.shutdown(cancel_futures=True)
