"""The prompt decoder alone, ours against transformers' `Sam2Model`, in turn: SAM2-T, random weights, fp32.

``python -m benchmarks.prompting [--prompts 64] [--repeats 5] [--profile]``; transformers' gets 64 prompts at a time and
gives three masks each, ours gives the best of the three. `--profile` says what ours spends its time on.
"""

import argparse
import statistics
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed import ask_peer
from no_time_to_train.proposers.base import Embedding, Prompts
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2


def show_profile(sam2: Sam2Predictor, embedding: Embedding, points: Tensor) -> None:
    """Print milliseconds a prompt of each kind of operation."""
    prepared = sam2.prepare(embedding)
    # With more, prompts are decoded in threads that the profile does not see.
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        sam2.best_masks(prepared, Prompts(points))
    entries = sorted(recorded.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
    table = Table("operation", "ms a prompt", "calls a prompt")
    for entry in entries[:14]:
        milliseconds = entry.self_cpu_time_total / 1e3 / len(points)
        table.add_row(entry.key, f"{milliseconds:.2f}", f"{entry.count / len(points):.1f}")
    table.add_row("all", f"{sum(entry.self_cpu_time_total for entry in entries) / 1e3 / len(points):.2f}", "")
    Console().print(table)


def main() -> None:
    """Measure rounds and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64, help="a square number")
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds, after one that is not")
    parser.add_argument("--profile", action="store_true", help="also say what takes time")
    args = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*random weights")
        sam2 = build_sam2("sam2_hiera_t.yaml", random_init=True)
    torch.manual_seed(0)
    embedding = sam2.embed(sam2.preprocess(torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8)))
    points = torch.from_numpy(point_grid(round(args.prompts**0.5), sam2.image_size)[:, None])
    ratios, differences = [], []
    for index in range(args.repeats + 1):
        begin = time.perf_counter()
        ours = sam2.best_masks(embedding, Prompts(points))
        middle = time.perf_counter()
        with torch.inference_mode():
            theirs = [ask_peer(sam2, embedding, few, -1.0) for few in torch.split(points, 64)]
        end = time.perf_counter()
        logits = torch.cat([part.mask_logits for part in theirs])
        differences.append(float((ours.mask_logits - logits).abs().max() / logits.abs().max()))
        if index:
            ratios.append((end - middle) / (middle - begin))
            print(f"ours {middle - begin:.3f} s, transformers' {end - middle:.3f} s: {ratios[-1]:.1f}", flush=True)
    print(
        f"{len(points)} prompts: faster by {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}), "
        f"largest difference of a logit {max(differences):.1e} of the largest"
    )
    if args.profile:
        show_profile(sam2, embedding, points)


if __name__ == "__main__":
    main()
