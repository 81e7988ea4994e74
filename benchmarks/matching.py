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

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import batched_nms, masks_to_boxes

from no_time_to_train.data.prediction import Result
from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.matching.similarity import class_similarity, negative_penalty, pool_masks
from no_time_to_train.models.predictions import to_prediction


class Case(NamedTuple):
    """One size of the problem: masks, classes, patch grid, width, mask side, the image's height and width."""

    masks: int
    classes: int
    grid: int
    dim: int
    mask_side: int
    height: int
    width: int


CASES = (
    Case(64, 1, 37, 1024, 256, 320, 320),
    Case(200, 80, 37, 1024, 256, 480, 640),
    Case(200, 1, 37, 1024, 256, 480, 640),
    Case(256, 1203, 37, 1024, 256, 640, 640),
)
# Nothing overlaps so much that it goes: every candidate is merged.
_KEEP_ALL = 1.0
_LVIS_CLASSES, _LVIS_REFERENCES, _LVIS_MASKS = 1203, 10, 1000


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


def match_plainly(
    patches: Tensor,
    logits: Tensor,
    quality: Tensor,
    bank: MemoryBank,
    size: tuple[int, int],
    *,
    count: int = 100,
    threshold: float = _KEEP_ALL,
) -> Instances:
    """Match as the method is written: every kept mask a float image, and one product of all with all."""
    masks = logits > 0
    pooled = F.normalize(upsample_first(patches, masks), dim=1)
    scores, labels = (pooled @ bank.prototypes.T).clamp(min=0).max(dim=1)
    kept = batched_nms(masks_to_boxes(masks), quality, labels, threshold)
    scores, labels, pooled = scores[kept], labels[kept], pooled[kept]
    full = (F.interpolate(logits[kept][:, None], size=size, mode="bilinear", antialias=True)[:, 0] > 0).float()
    shared = full.flatten(1) @ full.flatten(1).T
    within = shared / full.flatten(1).sum(dim=1).clamp(min=1)[:, None]
    alike = (pooled @ pooled.T).clamp(min=0) * (labels[:, None] == labels)
    scores = scores * (1 - (within * alike).tril(diagonal=-1).amax(dim=1)).clamp(min=0).sqrt()
    best = scores.argsort(descending=True, stable=True)[:count]
    chosen = full[best] > 0
    return Instances(chosen, masks_to_boxes(chosen), scores[best], labels[best])


def plain_results(found: Instances, category_ids: range) -> list[Result]:
    """Write COCO results one mask after the other, by pycocotools."""
    results = []
    for mask, box, score, label in zip(found.masks, found.boxes, found.scores, found.labels, strict=True):
        x1, y1, x2, y2 = box.tolist()
        encoded = coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
        results.append(
            {
                "image_id": 1,
                "category_id": category_ids[int(label)],
                "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                "score": float(score),
                "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
            }
        )
    return results


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


def random_bank(classes: int, dim: int, references: int = 1, negatives: int = 0) -> MemoryBank:
    """Fill a bank with noise."""
    bank = MemoryBank([f"class {index}" for index in range(classes)], dim, "benchmark")
    for index in range(classes):
        for reference in range(references + negatives):
            bank.add_mean(index, torch.randn(dim), reference >= references)
    bank.finalize()
    return bank


def compared(name: str, ours: list[float], plain: list[float]) -> dict[str, float]:
    """Return medians, and the ratio of the pairs that were measured one after the other."""
    ratios = [slow / fast for fast, slow in zip(ours, plain, strict=True)]
    return {
        f"{name}_s": statistics.median(ours),
        f"{name}_plain_s": statistics.median(plain),
        f"{name}_ratio": statistics.median(ratios),
        f"{name}_ratio_min": min(ratios),
        f"{name}_ratio_max": max(ratios),
    }


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Measure one case: pooling alone, and everything from mask logits to COCO results; times in seconds."""
    torch.manual_seed(0)
    patches, logits = torch.randn(case.grid, case.grid, case.dim), blobs(case.masks, case.mask_side)
    masks, quality, bank = logits > 0, torch.rand(case.masks), random_bank(case.classes, case.dim)
    size, ids = (case.height, case.width), range(case.classes)

    def ours() -> list[Result]:
        found = match_masks(patches, logits, quality, bank, image_size=size, nms_threshold=_KEEP_ALL)
        return to_prediction(found, bank.class_names).to_coco(1, ids)

    def plain() -> list[Result]:
        return plain_results(match_plainly(patches, logits, quality, bank, size), ids)

    difference = (pool_masks(patches, masks) - upsample_first(patches, masks)).abs().max().item()
    pooling = in_turn(lambda: pool_masks(patches, masks), lambda: upsample_first(patches, masks), repeats)
    pairs = list(zip(ours(), plain(), strict=True))
    return {
        **compared("pool", *pooling),
        "pool_max_difference": difference,
        **compared("all", *in_turn(ours, plain, repeats)),
        "score_max_difference": max(abs(one["score"] - other["score"]) for one, other in pairs),
        "other_masks": sum(one["segmentation"] != other["segmentation"] for one, other in pairs),
    }


def measure_bank(repeats: int, dim: int = 1024) -> dict[str, float]:
    """Measure a bank of LVIS's size: its bytes, and scoring masks with and without a negative reference a class."""
    torch.manual_seed(0)
    pooled = F.normalize(torch.randn(_LVIS_MASKS, dim), dim=1)
    bank = random_bank(_LVIS_CLASSES, dim, _LVIS_REFERENCES)
    contrasted = random_bank(_LVIS_CLASSES, dim, negatives=1)

    def with_negatives() -> Tensor:
        cosines = class_similarity(pooled, contrasted)
        scores: Tensor = cosines * negative_penalty(pooled, cosines, contrasted)
        return scores

    positive, negative = in_turn(lambda: class_similarity(pooled, bank), with_negatives, repeats)
    held = [bank.means, bank.classes, bank.negative, bank.prototypes]
    return {
        "bank_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
        "cosines_s": statistics.median(positive),
        "with_negatives_s": statistics.median(negative),
    }


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds of each case")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for column in ("masks", "classes", "image", "pool ms", "plain ms", "ratio (min-max)", "max |Δ|"):
        table.add_column(column, justify="right")
    for column in ("all ms", "plain ms", "ratio (min-max)", "max |Δ score|", "other masks"):
        table.add_column(column, justify="right")
    rows = []
    for case in CASES:
        figures = measure(case, args.repeats)
        rows.append({**case._asdict(), **figures})
        cells = [str(case.masks), str(case.classes), f"{case.width}x{case.height}"]
        for name in ("pool", "all"):
            cells += [f"{1e3 * figures[f'{name}_s']:.1f}", f"{1e3 * figures[f'{name}_plain_s']:.1f}"]
            low, middle, high = (figures[f"{name}_ratio{end}"] for end in ("_min", "", "_max"))
            cells.append(f"{middle:.1f} ({low:.1f}-{high:.1f})")
            cells.append(f"{figures['pool_max_difference' if name == 'pool' else 'score_max_difference']:.1e}")
        table.add_row(*cells, str(figures["other_masks"]))
    bank = measure_bank(args.repeats)
    console = Console(width=160)
    console.print(table)
    console.print(
        f"{_LVIS_CLASSES} classes x {_LVIS_REFERENCES} references: {bank['bank_bytes'] / 1e6:.0f} MB; {_LVIS_MASKS} "
        f"masks' cosines {1e3 * bank['cosines_s']:.1f} ms, with negatives {1e3 * bank['with_negatives_s']:.1f} ms"
    )
    if args.json:
        args.json.write_text(json.dumps({"cases": rows, "lvis": bank}, indent=1) + "\n")


if __name__ == "__main__":
    main()
