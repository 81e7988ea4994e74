"""A process that has imported everything, and forks one child for each command that is to run, and to be killed.

``python -m tests.kills.forker`` reads a job a line as JSON and answers each with one line. A child is the real command,
from its arguments to its exit status, in a session of its own; it counts what it does to the file system below a
folder, and gets the signal that the job names at its moment; SIGKILL goes to all processes that it started too.
"""

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from no_time_to_train.io.process import program

# Forking is safe as long as nothing has started a thread, which none of these does by being imported; onnxruntime does.
IMPORTED = (
    "faster_coco_eval",
    "jax2onnx",
    "equinox",
    "lightning.pytorch.callbacks",
    "no_time_to_train.cli",
    "no_time_to_train.cli.lightning.command",
    "no_time_to_train.weights.conversion",
    "no_time_to_train.training.distill.module",
    "no_time_to_train.training.quickstart.encoder_module",
    "no_time_to_train.pl_wrapper.sam2matcher_pl",
    "no_time_to_train.batch.run",
    "no_time_to_train.weights.hub.fetch",
    "onnx_ir",
    "supervision",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


class _Watch:
    """Counts changes below a folder, and tells when the wanted one is about to happen."""

    def __init__(self, folder: Path, wanted: int | None, reached: Callable[[], None]) -> None:
        self.count = 0
        self._folder, self._wanted, self._reached = str(folder), wanted, reached
        sys.addaudithook(self._hear)
        sync = os.fsync

        def counted(fd: Any) -> None:
            sync(fd)
            self._add()

        os.fsync = counted

    def _hear(self, event: str, args: Sequence[Any]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if (writes or event in _CHANGES) and self._is_below(args):
            self._add()

    def _is_below(self, args: Sequence[Any]) -> bool:
        path = args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        # Whole folders are removed by names relative to open descriptors.
        return os.fsdecode(path).startswith(self._folder) or "/" not in os.fsdecode(path)

    def _add(self) -> None:
        self.count += 1
        if self.count == self._wanted:
            self._reached()


def main() -> None:
    """Answer jobs until there are no more."""
    for module in IMPORTED:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise SystemExit(f"{threads} threads run after the imports: nothing may be forked")
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a command, kill it at its moment, and say how it ended, after how long, and after how many changes."""
    reading, writing = os.pipe()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(job, writing)
    os.close(writing)
    pidfd, deadline = os.pidfd_open(child), None if job["after"] is None else begin + job["after"]
    told = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select([pidfd, *([reading] if reading >= 0 else [])], [], [], left)[0]
        if not ready:
            _send(child, job["signum"])
            deadline = None
        elif pidfd in ready:
            break
        else:
            part = os.read(reading, 100)
            told += part
            if b"now" in part:
                deadline = time.monotonic() + job["delay"]
            if not part:
                os.close(reading)
                reading = -1
    _, status, usage = os.wait4(child, 0)
    left = 0 if job["signum"] == signal.SIGKILL else _count_left(child)
    _kill(child)  # what it may have started
    os.close(pidfd)
    if reading >= 0:
        told += os.read(reading, 100)
        os.close(reading)
    count = [int(word) for word in told.split() if word.isdigit()]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begin,
        "cpu": usage.ru_utime + usage.ru_stime,
        "changes": count[-1] if count else None,
        "left": left,
    }


def _send(child: int, signum: int) -> None:
    if signum == signal.SIGKILL:
        _kill(child)
    else:
        os.kill(child, signum)


def _count_left(group: int, patience: float = 10.0) -> int:
    """Count the processes of a group that has lost its leader, once they had time to notice."""
    deadline = time.monotonic() + patience
    while True:
        left = sum(_group_of(path) == group for path in Path("/proc").iterdir() if path.name.isdigit())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def _group_of(process: Path) -> int | None:
    try:
        state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return None
    return None if state == "Z" else int(group)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _be_the_command(job: dict[str, Any], telling: int) -> None:
    """In the child: run the command and end as it does."""
    status = 1
    try:
        os.setsid()
        with Path(job["log"]).open("ab") as log, Path(os.devnull).open("rb") as nothing:
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source.fileno(), target)
        os.environ.update(job["environment"])
        os.chdir(job["cwd"])

        def reached() -> None:
            if job["delay"]:
                os.write(telling, b"now ")
            else:
                _send(os.getpid(), job["signum"])

        watch = _Watch(Path(job["folder"]), job["change"], reached)
        module = importlib.import_module(f"no_time_to_train.{job['program']}")
        sys.argv = [job["program"], *job["args"]]
        status = program(module.main, job["program"])
        if job["signum"] != signal.SIGKILL:
            signal.signal(job["signum"], signal.SIG_IGN)  # the command is done: what comes now is too late
        os.write(telling, b"%d " % watch.count)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
