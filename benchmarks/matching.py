"""Pooling, and everything after the mask decoder: ours against the method written down plainly, in the same run.

``python -m benchmarks.matching [--repeats 5] [--json FILE]`` prints medians and ratios, measured in turn.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from no_time_to_train.matching import MemoryBank, match_masks
from no_time_to_train.matching.similarity import pool_masks


class Case(NamedTuple):
    """One size of the problem: masks, classes, patch grid, width, mask side, image side."""

    masks: int
    classes: int
    grid: int
    dim: int
    mask_side: int
    image_side: int


CASES = (
    Case(64, 1, 37, 1024, 256, 320),
    Case(256, 80, 37, 1024, 256, 640),
    Case(1024, 80, 37, 1024, 256, 640),
    Case(256, 1203, 37, 1024, 256, 640),
)


def blobs(count: int, side: int) -> Tensor:
    """Make mask logits (N, side, side): one disc each, of random place and size."""
    axis = torch.arange(side)
    y, x = torch.rand(2, count, 1, 1) * side
    radius = (0.03 + 0.2 * torch.rand(count, 1, 1)) * side
    logits: Tensor = radius - ((axis[:, None] - y) ** 2 + (axis - x) ** 2).sqrt()
    return logits


def upsample_first(patches: Tensor, masks: Tensor) -> Tensor:
    """Pool as the method is written: upsample all features to the masks' resolution, then average."""
    upsampled = F.interpolate(
        patches.permute(2, 0, 1)[None], size=tuple(masks.shape[1:]), mode="bilinear", antialias=True
    )[0]
    flat = masks.flatten(1).float()
    pooled: Tensor = flat @ upsampled.flatten(1).T / flat.sum(dim=1, keepdim=True)
    return pooled


def in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Time two functions in turn, after one uncounted round."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_index in range(repeats + 1):
        for function, spent in zip((first, second), times, strict=True):
            begin = time.perf_counter()
            function()
            if round_index:
                spent.append(time.perf_counter() - begin)
    return times


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Measure one case; times in seconds, ratios of pairs measured one after the other."""
    torch.manual_seed(0)
    patches, logits = torch.randn(case.grid, case.grid, case.dim), blobs(case.masks, case.mask_side)
    masks = logits > 0
    bank = MemoryBank([f"class {index}" for index in range(case.classes)], case.dim, "benchmark")
    for index in range(case.classes):
        bank.add_mean(index, torch.randn(case.dim))
    quality = torch.rand(case.masks)
    difference = (pool_masks(patches, masks) - upsample_first(patches, masks)).abs().max().item()
    ours, plain = in_turn(lambda: pool_masks(patches, masks), lambda: upsample_first(patches, masks), repeats)
    size = (case.image_side, case.image_side)
    whole, _ = in_turn(lambda: match_masks(patches, logits, quality, bank, image_size=size), lambda: None, repeats)
    ratios = [slow / fast for fast, slow in zip(ours, plain, strict=True)]
    return {
        "pool_s": statistics.median(ours),
        "upsample_first_s": statistics.median(plain),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "max_difference": difference,
        "match_s": statistics.median(whole),
    }


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds of each case")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for column in (*Case._fields, "pool ms", "upsample first ms", "ratio (min-max)", "max |Δ|", "match_masks ms"):
        table.add_column(column, justify="right")
    rows = []
    for case in CASES:
        figures = measure(case, args.repeats)
        rows.append({**case._asdict(), **figures})
        table.add_row(
            *(str(value) for value in case),
            f"{1e3 * figures['pool_s']:.1f}",
            f"{1e3 * figures['upsample_first_s']:.1f}",
            f"{figures['ratio']:.1f} ({figures['ratio_min']:.1f}-{figures['ratio_max']:.1f})",
            f"{figures['max_difference']:.1e}",
            f"{1e3 * figures['match_s']:.1f}",
        )
    Console(width=160).print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
