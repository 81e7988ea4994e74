"""A handful of kills of every command; ``python -m tests.kills.run`` does more of them."""

import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills.driver import Forker
from tests.kills.run import MAKERS
from tests.weights.hub_server import Hub, running_hub

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and descriptors of processes")


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with Forker(tmp_path_factory.mktemp("forker")) as forker:
        yield forker


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


# The other conversions and exports, test mode with a memory, and the other training are in the long run.
KILLS = {"fetch": 4, "convert-hf": 3, "export": 1, "fill-memory": 2, "full-run": 3, "predict": 3, "distill": 2}


@pytest.mark.parametrize("name", KILLS)
def test_killed_at_random_moments(name: str, forker: Forker, hub: Hub, tmp_path: Path) -> None:
    """What is there after each kill is right, and one run to the end gives what a run gives that nobody killed."""
    scenario, rng = MAKERS[name](tmp_path / name, hub), random.Random(f"5 {name}")
    scenario.learn(forker)
    scenario.begin()
    # The last one is asked to stop, and says so by its exit status.
    signals = [signal.SIGKILL] * KILLS[name] + [signal.SIGTERM]
    tries = 0
    while signals:
        if scenario.kill(forker, rng, signals[0]):
            del signals[0]
        else:
            # It came to its end first; over what it left, the next one would have nothing to do.
            scenario.begin()
        tries += 1
        assert tries < 40  # a busy machine may make the first run, by which moments are drawn, the longest
    scenario.end(forker)
