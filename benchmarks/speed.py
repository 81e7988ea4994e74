"""Seconds an image, stage by stage: ours exact, ours fast, and SAM2 called as the original calls it, in the same run.

``python -m benchmarks.speed [--repeats 5] [--peer-prompts 1024] [--parts compared] [--json FILE] [--plot FILE]``

DINOv3-L at 592 px and SAM2-T with random weights, an image of noise in 640x480, one class in memory. The peer is
transformers' `Sam2Model`, 64 prompts at a time, three masks each, then the method as it is written: every mask a float
image, one product of all with all, RLE one after the other. Then how our own time grows, with prompts, classes and the
image's size; how a second run from the cache compares; and the most memory each takes, each in a process of its own.
"""

import argparse
import functools
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.matching import match_plainly, plain_results, random_bank
from no_time_to_train.data.images import load_image
from no_time_to_train.data.prediction import Result
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.models.predictions import to_prediction
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.base import Embedding, MaskProposals, Prompts
from no_time_to_train.proposers.factory import build_proposer
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

STAGES = ("load", "encode", "embed", "prompt", "match", "write")
FAST = {"precision": "bf16", "sam2_infer_cfgs": {"prompt_selection": "prior"}}
PRESETS: dict[str, dict[str, Any]] = {"exact": {}, "fast": FAST}
_PEER_BATCH = 64


class Size(NamedTuple):
    """A size of the problem: points along a side of the grid, classes, width and height of the image."""

    points: int = 32
    classes: int = 1
    width: int = 640
    height: int = 480


GROWTH = {
    "prompts": [Size(points=side) for side in (16, 24, 32)],
    "classes": [Size(classes=count) for count in (1, 80, 1203)],
    "image": [Size(width=side, height=side * 3 // 4) for side in (320, 640, 1280, 4000)],
}


def build(preset: str, **settings: Any) -> Sam2MatchingBaseline_noAMG:
    """Build a preset with random weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*random weights")
        return Sam2MatchingBaseline_noAMG(
            "sam2_hiera_t.yaml",
            encoder_cfg={"name": "dinov3_large", "img_size": 592},
            random_init=True,
            **PRESETS[preset],
            **settings,
        )


def at(baseline: Sam2MatchingBaseline_noAMG, size: Size) -> Sam2MatchingBaseline_noAMG:
    """Set a baseline to a size: its grid, and a memory of so many random classes."""
    grid = replace(baseline.config.grid, points_per_side=size.points)
    baseline.config = replace(baseline.config, sam2_infer_cfgs=grid)
    baseline.proposer = build_proposer(baseline.config, baseline.promptable, baseline.protocol.points)
    baseline.memory = bank_of(size.classes)
    return baseline


@functools.cache
def bank_of(classes: int) -> MemoryBank:
    """Return a bank of random classes."""
    torch.manual_seed(0)
    return random_bank(classes, 1024)


def draw_image(folder: Path, size: Size) -> Path:
    """Write an image of smooth noise as JPEG."""
    path = folder / f"{size.width}x{size.height}.jpg"
    if not path.exists():
        small = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize((size.width, size.height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def read(path: Path) -> Tensor:
    """Read an image as the data module does."""
    return torch.from_numpy(np.array(load_image(path))).permute(2, 0, 1).contiguous()


def results_of(baseline: Sam2MatchingBaseline_noAMG, found: Instances) -> list[Result]:
    """Return COCO results of one image."""
    return to_prediction(found, cast(MemoryBank, baseline.memory).class_names).to_coco(1)


class Clock:
    """Seconds between one stage and the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        """Say that a stage has ended."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


@torch.inference_mode()
def ours(baseline: Sam2MatchingBaseline_noAMG, path: Path, out: Path) -> tuple[dict[str, float], MaskProposals]:
    """Go through the stages of our own."""
    clock = Clock()
    image = read(path)
    clock.stage("load")
    patches = baseline.encode(image)
    clock.stage("encode")
    (embedding,) = baseline.features.embeddings([image])
    clock.stage("embed")
    proposals = baseline.proposer(embedding, patches, cast(MemoryBank, baseline.memory))
    clock.stage("prompt")
    found = baseline.match(patches, proposals, (image.shape[1], image.shape[2]))
    clock.stage("match")
    write_text_atomic(out / "ours.json", json.dumps(results_of(baseline, found)))
    clock.stage("write")
    return clock.seconds, proposals


@torch.inference_mode()
def peer(
    baseline: Sam2MatchingBaseline_noAMG, path: Path, out: Path, prompts: int
) -> tuple[dict[str, float], MaskProposals]:
    """Go through the same stages with transformers' model as it is, and the method as it is written."""
    sam2, clock = cast(Sam2Predictor, baseline.promptable), Clock()
    image = read(path)
    clock.stage("load")
    patches = baseline.encode(image)
    clock.stage("encode")
    embedding = sam2.embed(sam2.preprocess(image))
    clock.stage("embed")
    points = torch.from_numpy(point_grid(baseline.config.grid.points_per_side, sam2.image_size)[:prompts, None])
    threshold = baseline.config.grid.iou_thr
    kept = [ask_peer(sam2, embedding, batch, threshold) for batch in torch.split(points, _PEER_BATCH)]
    proposals = MaskProposals(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
    clock.stage("prompt")
    size, memory = (image.shape[1], image.shape[2]), cast(MemoryBank, baseline.memory)
    found = match_plainly(patches, *proposals, memory, size, threshold=baseline.config.grid.nms_thr)
    clock.stage("match")
    write_text_atomic(out / "peer.json", json.dumps(plain_results(found, range(1, 2000))))
    clock.stage("write")
    return clock.seconds, proposals


def ask_peer(sam2: Sam2Predictor, embedding: Embedding, points: Tensor, threshold: float) -> MaskProposals:
    """Decode points by transformers' decoder, and keep the best masks whose predicted IoU is above a threshold."""
    model, prompts = sam2.model, Prompts(points)
    assert prompts.points is not None
    assert prompts.labels is not None
    sparse, dense = model.get_prompt_embeddings(prompts.points[None], cast(Any, prompts.labels[None]))
    masks, quality, _, _ = model.mask_decoder(
        image_embeddings=embedding["features"],
        image_positional_embeddings=model.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        high_resolution_features=[embedding["stride4"], embedding["stride8"]],
    )
    best, choice = quality[0].max(dim=1)
    kept = best > threshold
    return MaskProposals(masks[0][torch.arange(len(points)), choice][kept], best[kept])


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each stage and of the whole."""
    stages = {stage: statistics.median(entry[stage] for entry in rounds) for stage in STAGES}
    return stages | {"all": statistics.median(sum(entry.values()) for entry in rounds)}


def compare(folder: Path, repeats: int, peer_prompts: int) -> dict[str, Any]:
    """Measure peer, exact and fast in turn, after an uncounted round of ours."""
    size, path = Size(), draw_image(folder, Size())
    exact, fast = at(build("exact"), size), at(build("fast"), size)
    rounds: dict[str, list[dict[str, float]]] = {"peer": [], "exact": [], "fast": []}
    for baseline in (exact, fast):
        ours(baseline, path, folder)
    differences = []
    for _ in range(repeats):
        seconds, theirs = peer(exact, path, folder, peer_prompts)
        rounds["peer"].append(seconds)
        seconds, own = ours(exact, path, folder)
        rounds["exact"].append(seconds)
        rounds["fast"].append(ours(fast, path, folder)[0])
        differences.append(_difference(own, theirs))
        spent = ", ".join(f"{name} {sum(entries[-1].values()):.2f} s" for name, entries in rounds.items())
        print(spent, file=sys.stderr, flush=True)
    ratios = {}
    for name in ("exact", "fast"):
        pairs = list(zip(rounds["peer"], rounds[name], strict=True))
        ratios[name] = _ratio([sum(slow.values()) / sum(quick.values()) for slow, quick in pairs])
        ratios[f"{name} prompts"] = _ratio([slow["prompt"] / quick["prompt"] for slow, quick in pairs])
    stages = {name: medians(entries) for name, entries in rounds.items()}
    return {"stages": stages, "ratios": ratios, "prompts of the peer": peer_prompts, "difference": max(differences)}


def _difference(own: MaskProposals, theirs: MaskProposals) -> float:
    """Return the largest difference of the peer's logits and ours, in units of the largest logit."""
    count = len(theirs.mask_logits)
    return float((own.mask_logits[:count] - theirs.mask_logits).abs().max() / theirs.mask_logits.abs().max())


def _ratio(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def grow(folder: Path, repeats: int) -> dict[str, Any]:
    """Measure how time grows with each size, for both presets."""
    figures: dict[str, Any] = {}
    for preset in PRESETS:
        baseline = build(preset)
        ours(at(baseline, Size()), draw_image(folder, Size()), folder)
        for what, sizes in GROWTH.items():
            for size in sizes:
                path = draw_image(folder, size)
                rounds = [ours(at(baseline, size), path, folder)[0] for _ in range(repeats)]
                figures.setdefault(what, {}).setdefault(preset, []).append({**size._asdict(), **medians(rounds)})
    return figures


def second_run(folder: Path, repeats: int) -> dict[str, Any]:
    """Measure a first and a second look at the same image with a cache: again, and with other references."""
    figures: dict[str, Any] = {}
    path = draw_image(folder, Size())
    for preset in PRESETS:
        times: dict[str, list[float]] = {"first": [], "again": [], "other references": []}
        for index in range(repeats):
            baseline = build(preset, feature_cache={"folder": folder / f"cache {preset} {index}"})
            at(baseline, Size())
            baseline.features.warm()
            for name in times:
                if name == "other references":
                    torch.manual_seed(1 + index)
                    baseline.memory = random_bank(1, 1024)
                begin = time.perf_counter()
                baseline.predict(read(path))
                times[name].append(time.perf_counter() - begin)
        figures[preset] = {name: statistics.median(values) for name, values in times.items()}
    return figures


def peaks(peer_prompts: int) -> dict[str, float]:
    """Return the most memory that each way takes for one image, in GB, each in a process of its own."""
    found = {}
    for name in ("exact", "fast", "peer"):
        command = [sys.executable, "-m", "benchmarks.speed", "--one", name, "--peer-prompts", str(peer_prompts)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = int(printed.split()[-1]) / 1e6
    return found


def one(name: str, peer_prompts: int) -> None:
    """Look at one image, and print the process's peak of memory in kB."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, size = Path(temporary), Size()
        path = draw_image(folder, size)
        if name == "peer":
            peer(at(build("exact"), size), path, folder, peer_prompts)
        else:
            ours(at(build(name), size), path, folder)
    status = Path("/proc/self/status").read_text()
    print(cast(re.Match[str], re.search(r"VmHWM:\s+(\d+) kB", status))[1])


def show_compared(compared: dict[str, Any], console: Console) -> None:
    """Print the stages of peer, exact and fast."""
    stages, ratios = compared["stages"], compared["ratios"]
    title = f"seconds an image; torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    table = Table("", *STAGES, "all", "faster by (min-max)", "prompts faster by", title=title)
    for name, entry in stages.items():
        cells = [f"{entry[stage]:.3f}" for stage in (*STAGES, "all")]
        for key in (name, f"{name} prompts"):
            cells.append("{:.1f} ({:.1f}-{:.1f})".format(*ratios[key]) if key in ratios else "")
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"largest difference of logits: {compared['difference']:.1e} of the largest")


def show_growth(growth: dict[str, Any], console: Console) -> None:
    """Print a table for each size that grows."""
    for what, presets in growth.items():
        table = Table("preset", *Size._fields, *STAGES, "all", title=f"growth with {what}")
        for preset, rows in presets.items():
            for row in rows:
                table.add_row(
                    preset, *(str(row[key]) for key in Size._fields), *(f"{row[key]:.3f}" for key in (*STAGES, "all"))
                )
        console.print(table)


def show_cache(cache: dict[str, Any], console: Console) -> None:
    """Print first and second runs."""
    table = Table("preset", "first", "again", "other references", title="seconds an image, with a cache")
    for preset, entry in cache.items():
        table.add_row(preset, *(f"{value:.3f}" for value in entry.values()))
    console.print(table)


def show_peaks(peaks: dict[str, float], console: Console) -> None:
    """Print the most memory of each."""
    console.print("peak of memory: " + ", ".join(f"{name} {value:.2f} GB" for name, value in peaks.items()))


def plot(growth: dict[str, Any], path: Path) -> None:
    """Draw seconds an image against prompts, classes and the image's size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = cast(Any, figure.subplots(1, 3))
    positions: dict[str, Callable[[dict[str, Any]], float]] = {
        "prompts": lambda row: row["points"] ** 2,
        "classes": lambda row: row["classes"],
        "image": lambda row: row["width"] * row["height"] / 1e6,
    }
    labels = {"prompts": "points of the grid", "classes": "classes", "image": "megapixels"}
    for axis, (what, presets) in zip(axes, growth.items(), strict=True):
        for preset, rows in presets.items():
            axis.plot([positions[what](row) for row in rows], [row["all"] for row in rows], "o-", label=preset)
        axis.set(xlabel=labels[what], ylabel="seconds an image", ylim=(0, None))
        if what != "prompts":
            axis.set_xscale("log")
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the parts and print each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds")
    parser.add_argument("--growth-repeats", type=int, default=3, help="counted rounds of growth and cache")
    parser.add_argument("--peer-prompts", type=int, default=1024, help="fewer are quicker, and favour the peer")
    parser.add_argument(
        "--parts", nargs="+", choices=("compared", "cache", "peak GB", "growth"), help="all if not given"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plot", type=Path, help="also draw growth here")
    parser.add_argument("--one", choices=("exact", "fast", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.peer_prompts)
        return
    figures: dict[str, Any] = {}
    console = Console(width=160)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts: dict[str, tuple[Callable[[], Any], Callable[[Any, Console], None]]] = {
            "compared": (lambda: compare(folder, args.repeats, args.peer_prompts), show_compared),
            "cache": (lambda: second_run(folder, args.growth_repeats), show_cache),
            "peak GB": (lambda: peaks(args.peer_prompts), show_peaks),
            "growth": (lambda: grow(folder, args.growth_repeats), show_growth),
        }
        for name in args.parts or parts:
            measure, show = parts[name]
            figures[name] = measure()
            # At once: a run that is stopped later keeps what it has measured.
            show(figures[name], console)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot and "growth" in figures:
        plot(figures["growth"], args.plot)


if __name__ == "__main__":
    main()
