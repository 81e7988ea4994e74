"""Mask AP against the number of references, on the demo's own data: `python -m benchmarks.shots`.

Three draws of references; the line is their mean, the points are the draws. Writes docs/images/quickstart_shots.png.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.training.quickstart.report import build_baseline, fill_memories, measure

SHOTS = (1, 2, 3, 5, 10)
DRAWS = 3
TARGETS = 40
PICTURE = Path("docs/images/quickstart_shots.png")


def curves(seed: int) -> dict[str, list[list[float]]]:
    """Return AP in points by what was matched: a list for each draw, in the order of `SHOTS`."""
    baseline = build_baseline()
    found: dict[str, list[list[float]]] = {"encoder": [], "mean colour": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        targets = write_shapes(root / "targets", seed=seed, shots=1, num_targets=TARGETS)
        for draw in range(DRAWS):
            memories = fill_memories(baseline, root / f"references{draw}", seed=seed + draw, shots=SHOTS)
            figures = measure(baseline, [memories], targets, ap_shots=SHOTS)
            found["encoder"].append([figures.ap[count] for count in SHOTS])
            found["mean colour"].append([figures.ap_colour[count] for count in SHOTS])
    return found


def draw_plot(found: dict[str, list[list[float]]], path: Path) -> None:
    """Draw the curves as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 3.2), dpi=160, layout="constrained")
    for (name, draws), colour in zip(found.items(), ("#1f5fa8", "#b0651d"), strict=True):
        means = [statistics.fmean(column) for column in zip(*draws, strict=True)]
        axes.plot(SHOTS, means, color=colour, label=name)
        for values in draws:
            axes.plot(SHOTS, values, "o", color=colour, markersize=3, alpha=0.6)
        axes.annotate(f"{means[-1]:.0f}", (SHOTS[-1], means[-1]), xytext=(6, -3), textcoords="offset points")
    axes.set(xlabel="references a class", ylabel="mask AP", xticks=SHOTS, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the targets and of the first draw of references")
    found = curves(parser.parse_args().seed)
    for name, draws in found.items():
        means = [statistics.fmean(column) for column in zip(*draws, strict=True)]
        print(name, *(f"{count}-shot {mean:.1f}" for count, mean in zip(SHOTS, means, strict=True)))
    draw_plot(found, PICTURE)


if __name__ == "__main__":
    main()
