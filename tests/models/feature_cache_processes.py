"""Processes that share a feature cache, started by its tests: ``python -m ... share|kill folder``."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key

KEYS = [content_key("entry", bytes([index])) for index in range(12)]
MAX_BYTES = 60_000


def value_of(key: str) -> torch.Tensor:
    """Give about 8 kB that only this key has."""
    return torch.full((1000 + KEYS.index(key),), float(KEYS.index(key)), dtype=torch.float64)


def use(folder: Path, seed: int, rounds: int) -> None:
    """Read, write and so remove entries, and fail on a value of another key."""
    cache = FeatureCache(folder, MAX_BYTES)
    random_ = random.Random(seed)
    for _ in range(rounds):
        key = random_.choice(KEYS)
        found = cache.get(key)
        if found is None:
            cache.put(key, {"value": value_of(key)})
        elif not torch.equal(found["value"], value_of(key)):
            raise ValueError("the value of another key")
    if not (cache.hits and cache.written):
        raise ValueError("nothing was shared")


def start(work: Callable[[], None]) -> int:
    """Run something in a process of its own, and return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def share(folder: Path) -> None:
    """Have three processes use one cache."""
    processes = [start(lambda seed=seed: use(folder, seed, rounds=150)) for seed in range(3)]  # type: ignore[misc] # seed=seed
    if any(os.waitpid(process, 0)[1] for process in processes):
        raise SystemExit("a process failed")


def kill(folder: Path) -> None:
    """Kill processes that write, at random moments."""
    random_ = random.Random(0)
    for seed in range(18):
        process = start(lambda seed=seed: use(folder, seed, rounds=10_000))  # type: ignore[misc] # mypy infers no type for seed=seed
        time.sleep(random_.uniform(0.005, 0.06))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise SystemExit("a process ended before it was killed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"share": share, "kill": kill}[sys.argv[1]](Path(sys.argv[2]))
