"""Two checkouts, run in turn: is the new one slower? ``python -m benchmarks.compare OLD NEW [--presets exact fast]``.

OLD and NEW are folders, such as a worktree of the last release (`git worktree add ../old v1.0.0`) and `.`. Each round
starts a process in both, in changing order, which looks at one image that is not counted and then at `--images` that
are, with the workload of `benchmarks.speed` of that checkout. Printed are medians of each stage, and the ratio of the
rounds' pairs with its minimum and maximum: a ratio whose spread holds 1 shows no change.

Both use this process's Python and its libraries; their dependencies have to be the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

_WORK = """
import json, sys, tempfile
from pathlib import Path
from benchmarks.speed import STAGES, Size, at, build, draw_image, ours
preset, points, images = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
size = Size(points=points)
with tempfile.TemporaryDirectory() as temporary:
    baseline, path = at(build(preset), size), draw_image(Path(temporary), size)
    rounds = [ours(baseline, path, Path(temporary))[0] for _ in range(images + 1)][1:]
print(json.dumps([[entry[stage] for stage in STAGES] for entry in rounds]))
"""
STAGES = ("load", "encode", "embed", "prompt", "match", "write")


def measure(checkout: Path, preset: str, points: int, images: int) -> list[float]:
    """Return the median seconds of each stage, and of all, in a process of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-W", "ignore", "-c", _WORK, preset, str(points), str(images)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {done.stderr}")
    rounds: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return [statistics.median(values) for values in zip(*([*entry, sum(entry)] for entry in rounds), strict=True)]


def compare(old: Path, new: Path, preset: str, *, points: int, images: int, rounds: int) -> Table:
    """Measure both in turn, and lay out medians and ratios."""
    found: dict[Path, list[list[float]]] = {old: [], new: []}
    for index in range(rounds):
        for checkout in (old, new) if index % 2 == 0 else (new, old):
            found[checkout].append(measure(checkout, preset, points, images))
        print(f"{preset}: old {found[old][-1][-1]:.2f} s, new {found[new][-1][-1]:.2f} s", file=sys.stderr, flush=True)
    table = Table("stage", "old, s", "new, s", "new / old (min-max)", title=f"{preset}, {points}x{points} prompts")
    for place, stage in enumerate((*STAGES, "all")):
        before, after = ([entry[place] for entry in found[checkout]] for checkout in (old, new))
        ratios = [one / other for one, other in zip(after, before, strict=True)]
        table.add_row(
            stage,
            f"{statistics.median(before):.3f}",
            f"{statistics.median(after):.3f}",
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})",
        )
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--presets", nargs="*", default=["exact", "fast"])
    parser.add_argument("--points", type=int, default=32, help="prompts along a side of the grid")
    parser.add_argument("--images", type=int, default=2, help="counted images of a process")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(args)
    for preset in given.presets:
        old, new = given.old.resolve(), given.new.resolve()
        options = {"points": given.points, "images": given.images, "rounds": given.rounds}
        Console().print(compare(old, new, preset, **options))


if __name__ == "__main__":
    main()
