"""Mutate a folder of the package at random places, and count the mutants that its own tests kill.

``python -m tests.mutants.run --folder matching --count 40 --seed 1`` prints each survivor. A run that is stopped or
reaches ``--seconds`` goes on where it was when it is started again with the same options; survivors are tried again.

Tests of the mutated module's name run first, then the folder's other fast tests, then those marked slow.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch  # noqa: F401  # for the forks
import torchvision  # noqa: F401  # for the forks

from tests.mutants.mutations import Mutation, mutations_of

ROOT = Path(__file__).parents[2]
PACKAGE = "no_time_to_train"
_COPIED = (PACKAGE, "tests")
# A test that waits for a mutant that never ends is stopped after as many times the whole run's time.
_PATIENCE = 2
_LONGEST = 1800.0
PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def copy_project(folder: Path) -> None:
    """Copy the package and its tests, and link what else the tests read."""
    for path in ROOT.iterdir():
        if path.name in _COPIED:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name not in {".git", "runs"}:
            (folder / path.name).symlink_to(path)
    if (ROOT.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(ROOT.parent / "shared")


def run_tests(project: Path, arguments: Sequence[str], timeout: float) -> int | None:
    """Run tests in a fork, which need not import torch again, and return pytest's status, or None after the time."""
    child = os.fork()
    if not child:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        os.setsid()
        os.chdir(project)
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        sys.path = [str(project), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments]))
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def own_tests(project: Path, folder: str, mutated: Path) -> list[str]:
    """Return the folder's test files that are named after the mutated module."""
    paths = (project / "tests" / folder).rglob(f"test_*{mutated.stem}*.py")
    return sorted(str(path.relative_to(project)) for path in paths)


def survives(project: Path, folder: str, mutation: Mutation, timeouts: Mapping[str, float]) -> bool:
    """Return whether the folder's tests pass with the mutation.

    Args:
        project: A copy of the project.
        folder: Of the package.
        mutation: Of a file in it.
        timeouts: In seconds, by the markers of the tests that are to run, in this order.
    """
    path = project / mutation.path.relative_to(ROOT)
    whole = path.read_bytes()
    # Bytecode is told apart by seconds and size, which may be the same for two mutants.
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
    own = own_tests(project, folder, path)
    others = [f"tests/{folder}", *(f"--ignore={name}" for name in own)]
    steps = [([*own, "-m", " or ".join(timeouts)], sum(timeouts.values()))] if own else []
    steps += [([*others, "-m", marker], timeout) for marker, timeout in timeouts.items()]
    try:
        path.write_text(mutation.apply())
        return all(run_tests(project, arguments, timeout) in PASSED for arguments, timeout in steps)
    finally:
        path.write_bytes(whole)
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def choose(folder: str, count: int, seed: int) -> list[Mutation]:
    """Return some of the folder's mutations, the same ones for the same sources and seed."""
    paths = sorted((ROOT / PACKAGE / folder).rglob("*.py"))
    found = [mutation for path in paths for mutation in mutations_of(path)]
    if not found:
        raise SystemExit(f"error: {PACKAGE}/{folder} has nothing to mutate; name a folder of the package")
    return random.Random(seed).sample(found, min(count, len(found)))


def name_of(mutation: Mutation) -> str:
    """Return what stays the same for as long as the file does."""
    source = mutation.path.read_bytes()
    column = mutation.start - source.rfind(b"\n", 0, mutation.start)
    digest = hashlib.sha256(source).hexdigest()[:12]
    return f"{mutation.path.relative_to(ROOT)}:{mutation.line}:{column} {digest} {mutation.diff()}"


def main() -> None:
    """Run the mutants and print the survivors and the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="a folder of the package, which tests/ mirrors")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help="leave out tests marked slow")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no mutant after this time")
    args = parser.parse_args()
    begin, state = time.monotonic(), ROOT / "runs" / "mutants" / f"{args.folder}-{args.seed}.json"
    known: dict[str, bool] = json.loads(state.read_text()) if state.exists() else {}
    chosen = {name_of(mutation): mutation for mutation in choose(args.folder, args.count, args.seed)}
    killed = [name for name in chosen if known.get(name)]
    waiting = [name for name in chosen if name not in killed]
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        project.mkdir()
        copy_project(project)
        timeouts = {}
        for marker in ("not slow",) if args.fast else ("not slow", "slow"):
            start = time.monotonic()
            status = run_tests(project, [f"tests/{args.folder}", "-m", marker], _LONGEST)
            if status not in PASSED:
                raise SystemExit(f"error: tests/{args.folder} ends with {status} without a mutation; mend it first")
            took = time.monotonic() - start
            print(f"tests/{args.folder} -m '{marker}' takes {took:.1f} s", flush=True)
            timeouts[marker] = _PATIENCE * took + 10
        print(f"{len(killed)} mutants are known to be killed", flush=True)
        for name in waiting:
            if time.monotonic() - begin > args.seconds:
                break
            if survives(project, args.folder, chosen[name], timeouts):
                survivors.append(name)
                print(f"survived: {name}", flush=True)
            else:
                killed.append(name)
            known[name] = name in killed
            state.parent.mkdir(parents=True, exist_ok=True)
            state.write_text(json.dumps(known, indent=1) + "\n")
    left = len(chosen) - len(killed) - len(survivors)
    print(f"{args.folder}, seed {args.seed}: {len(killed)} of {len(chosen)} killed, {left} not tried")


if __name__ == "__main__":
    main()
