"""Commands that get a signal at a moment, or run to their end."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        program: `cli` for `ntt`, `lightning_cli` for `run_lightening.py`.
        args: Behind the program's name.
        environment: What it finds in its environment beside the rest.
    """

    program: str
    args: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """When to send which signal.

    Attributes:
        change: Before the change to the file system of that number, counted from 1.
        delay: So many seconds later.
        after: Or so many seconds after the beginning.
        signum: SIGKILL goes to all processes of the command, any other signal to the command alone.
    """

    change: int | None = None
    delay: float = 0.0
    after: float | None = None
    signum: int = signal.SIGKILL

    @property
    def status(self) -> int:
        """The exit status of a command that the signal ends."""
        return -self.signum if self.signum == signal.SIGKILL else 128 + self.signum

    def __str__(self) -> str:
        if self.after is not None:
            when = f"after {self.after:.2f} s"
        else:
            when = f"change {self.change}" + (f" + {1000 * self.delay:.1f} ms" if self.delay else "")
        return when if self.signum == signal.SIGKILL else f"{when}, {signal.Signals(self.signum).name}"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; -9 if it was killed.
        seconds: How long it ran.
        cpu: Of the processor.
        changes: To the file system; None if it was killed.
        left: Processes that it started and that were still there some seconds after its end; 0 if it was killed.
        said: What it printed.
    """

    status: int
    seconds: float
    cpu: float
    changes: int | None
    left: int
    said: str


def draw_moment(rng: random.Random, whole: Ended, signum: int = signal.SIGKILL) -> Moment:
    """Draw a moment within a command that ran to its end: at a change, shortly behind one, or anywhere."""
    assert whole.changes
    change, kind = rng.randint(1, whole.changes), rng.random()
    if kind < 0.5:
        return Moment(change, signum=signum)
    if kind < 0.8:
        # Writing a file of these sizes takes that long.
        return Moment(change, delay=rng.uniform(0.0001, 0.01), signum=signum)
    return Moment(after=rng.uniform(0, whole.seconds), signum=signum)


class Forker:
    """Runs commands as children of a process that has imported all they need; see `forker.py`.

    Args:
        scratch: Where their working folder and what they print are.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        (scratch / "elsewhere").mkdir(parents=True)
        proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
        environment = {name: value for name, value in os.environ.items() if name not in proxies}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment |= {"HF_HOME": str(scratch / "hub"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.forker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self._answer()

    def __enter__(self) -> "Forker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def run(self, command: Command, folder: Path, moment: Moment | None = None) -> Ended:
        """Run a command, and kill it at a moment if there is one.

        Args:
            command: What to run.
            folder: Changes below it count.
            moment: When to kill it; if it ends before, it is not.
        """
        log = self.scratch / "log"
        log.unlink(missing_ok=True)
        job = {**asdict(command), **asdict(moment or Moment()), "folder": str(folder), "log": str(log)}
        job["cwd"] = str(self.scratch / "elsewhere")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._answer()), said=log.read_text(errors="replace") if log.exists() else "")

    def finish(self, command: Command, folder: Path) -> Ended:
        """Run a command to its end, which has to be a good one."""
        ended = self.run(command, folder)
        assert ended.status == 0, ended.said
        return ended

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError("the process that forks has ended")
        return line
