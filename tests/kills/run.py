"""Kill or stop every command at random moments, and show in a table what came of it.

``python -m tests.kills.run --kills 60 --seed 3``, or with ``--signal TERM``
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kills.driver import Forker
from tests.kills.matching import FillMemoryScenario, FullRunScenario, PredictScenario, TestModeScenario
from tests.kills.scenario import Scenario
from tests.kills.training import DistillScenario, QuickstartScenario
from tests.kills.weights import ConvertScenario, ExportBesideScenario, ExportScenario, FetchScenario
from tests.weights.hub_server import Hub, running_hub

MAKERS: dict[str, Callable[[Path, Hub], Scenario]] = {
    "fetch": FetchScenario,
    "convert-hf": lambda root, hub: ConvertScenario(root, "hf"),
    "convert-meta": lambda root, hub: ConvertScenario(root, "meta"),
    "convert-equinox": lambda root, hub: ConvertScenario(root, "equinox"),
    "export": lambda root, hub: ExportScenario(root),
    "export-beside": lambda root, hub: ExportBesideScenario(root),
    "fill-memory": lambda root, hub: FillMemoryScenario(root),
    "full-run": lambda root, hub: FullRunScenario(root),
    "test-mode": lambda root, hub: TestModeScenario(root),
    "predict": lambda root, hub: PredictScenario(root),
    "distill": lambda root, hub: DistillScenario(root),
    "quickstart": lambda root, hub: QuickstartScenario(root),
}


SIGNALS = {name: getattr(signal, f"SIG{name}") for name in ("KILL", "TERM", "INT", "HUP")}


@dataclass
class Tally:
    """What came of killing one command."""

    changes: int
    killed: int = 0
    ended_first: int = 0
    moments: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def workshop() -> Iterator[tuple[Forker, Hub, Path]]:
    """Give what scenarios need: a process that forks, a Hub, and a folder."""
    with tempfile.TemporaryDirectory() as folder, running_hub() as hub, Forker(Path(folder) / "forker") as forker:
        yield forker, hub, Path(folder).resolve()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="over all commands together")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--signal", choices=SIGNALS, default="KILL", help="all but KILL let the command clean up")
    parser.add_argument("--only", nargs="*", choices=MAKERS, default=list(MAKERS))
    options = parser.parse_args()
    console, tallies, begin = Console(width=120), {}, time.monotonic()
    with workshop() as (forker, hub, folder):
        for index, name in enumerate(options.only):
            share = options.kills // len(options.only) + (index < options.kills % len(options.only))
            rng = random.Random(f"{options.seed} {name}")
            tallies[name] = _kill_often(
                MAKERS[name](folder / name, hub), forker, rng, share, console, SIGNALS[options.signal]
            )
    table = Table("command", "changes", "killed", "ended first", "moments", "wrong")
    for name, tally in tallies.items():
        kinds = Counter(moment.split()[0] + (" later" if "+" in moment else "") for moment in tally.moments)
        moments = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        counts = (str(number) for number in (tally.changes, tally.killed, tally.ended_first))
        table.add_row(name, *counts, moments, str(len(tally.failures)))
    console.print(table)
    killed, wrong = (
        sum(values) for values in zip(*((t.killed, len(t.failures)) for t in tallies.values()), strict=True)
    )
    console.print(f"{killed} kills, {wrong} wrong, {time.monotonic() - begin:.0f} s, seed {options.seed}")
    return 1 if wrong else 0


def _kill_often(
    scenario: Scenario, forker: Forker, rng: random.Random, kills: int, console: Console, signum: int
) -> Tally:
    """Send a command a signal so many times, each time run it again, and say what was wrong."""
    try:
        scenario.learn(forker)
    except Exception as error:
        console.print(f"{scenario.name}: does not run even if nobody kills it: {error}", highlight=False, markup=False)
        return Tally(0, failures=[str(error)])
    assert scenario.whole is not None
    console.print(
        f"{scenario.name}: {scenario.whole.changes} changes, {scenario.whole.cpu:.1f} s of CPU", highlight=False
    )
    tally = Tally(scenario.whole.changes or 0)
    while tally.killed < kills:
        scenario.begin()
        outcome, killed = "fine", True
        try:
            killed = scenario.kill(forker, rng, signum)
            scenario.end(forker)
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error) or traceback.format_exc()}"
            tally.failures.append(outcome)
        moment = str(scenario.moment)
        tally.killed += killed
        tally.ended_first += not killed
        tally.moments += [moment] * killed
        console.print(
            f"{scenario.name}: {moment}: {'killed' if killed else 'ended first'}, {outcome}",
            highlight=False,
            markup=False,
        )
    return tally


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
