"""The original's whole runs, repeated with `protocol: published`, and instance by instance held against its results.

``python -m benchmarks.fidelity [--cases shapes fss] [--shared ../shared]``

The case `shapes` needs nothing but the repository; `fss` needs the photographs of `shared/real/fss_mini`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.records import Annotation
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.results.evaluation import evaluate

ROOT = Path(__file__).parents[1]
SHAPES_RESULTS = ROOT / "tests" / "data" / "golden" / "shapes_crop4_results.json"
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A run of the original.

    Attributes:
        results: COCO results that it gave.
        references: COCO JSON.
        targets: COCO JSON.
        images: Folder of both.
        points_per_side: Of the grid of prompts.
        crop_scale: The original's context_ratio, and 1.
    """

    results: Path
    references: Path
    targets: Path
    images: Path
    points_per_side: int
    crop_scale: float

    def arguments(self, output: Path) -> list[str]:
        """Return the arguments of run_lightening.py that repeat it."""
        settings = {
            "sam2_cfg_file": ROOT / "checkpoints" / "quickstart" / "sam2",
            "sam2_ckpt_path": "null",
            "encoder_cfg.name": "dinov3_quickstart",
            "encoder_cfg.img_size": 384,
            "encoder_ckpt_path": ROOT / "checkpoints" / "quickstart" / "encoder",
            "sam2_infer_cfgs.points_per_side": self.points_per_side,
            "memory_bank_cfg.crop_scale": self.crop_scale,
        }
        data = {
            "references": self.references,
            "reference_images": self.images,
            "targets": self.targets,
            "target_images": self.images,
        }
        configs = ROOT / "pl_configs"
        return [
            *("--config", str(configs / "matching_baseline_dinov3_test.yaml")),
            *("--config", str(configs / "presets" / "published.yaml")),
            *(text for name, value in settings.items() for text in (f"--model.model_cfg.{name}", str(value))),
            *(text for name, value in data.items() for text in (f"--data.{name}", str(value))),
            *("--trainer.default_root_dir", str(output), "--model.overlays", "0"),
            *("--trainer.accelerator", "cpu", "--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
        ]


@dataclass(frozen=True)
class Agreement:
    """Differences of two lists of results, instance by instance, in the order of scores within each image.

    Attributes:
        instances: How many each of the two has.
        score: The largest difference of a score.
        labels: Instances of another class.
        boxes: Instances with another box.
        pixels: Pixels of masks that differ, over all instances.
    """

    instances: tuple[int, int]
    score: float
    labels: int
    boxes: int
    pixels: int


def shapes_case(root: Path, num_targets: int = 60) -> Case:
    """Return the run on scenes that are written to a folder; fewer targets are the first of them."""
    paths = write_shapes(root, seed=11, shots=5, num_targets=num_targets)
    return Case(SHAPES_RESULTS, paths.references_json, paths.targets_json, paths.image_dir, 32, 4.0)


def fss_case(shared: Path) -> Case:
    """Return the run on photographs, which are in `shared` alone."""
    results, data = shared / "golden" / "published" / "fss_results.json", shared / "real" / "fss_mini"
    return Case(results, data / "references.json", data / "targets.json", data / "images", 16, 1.2)


def compare(found: Sequence[Result], expected: Sequence[Result]) -> Agreement:
    """Hold results against those of the original.

    Args:
        found: Ours.
        expected: The original's, of the same images.
    """
    counts = len(found), len(expected)
    ours, theirs = _by_image(found), _by_image(expected)
    pairs = [
        pair for image in sorted(ours | theirs) for pair in zip(ours[image], theirs[image], strict=False)
    ]  # a difference in their number shows in `instances`
    return Agreement(
        instances=counts,
        score=max((abs(one["score"] - other["score"]) for one, other in pairs), default=0.0),
        labels=sum(one["category_id"] != other["category_id"] for one, other in pairs),
        boxes=sum(one["bbox"] != other["bbox"] for one, other in pairs),
        pixels=sum(int((_mask(one) != _mask(other)).sum()) for one, other in pairs),
    )


def average_precision(case: Case, results: Sequence[Result]) -> dict[str, float]:
    """Return AP of boxes and of masks, in points."""
    return {report.iou_type: 100 * report.overall["AP"] for report in evaluate(load_coco(case.targets), results)}


def _by_image(results: Sequence[Result]) -> dict[int, list[Result]]:
    found: dict[int, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        found[result["image_id"]].append(result)
    return found


def _mask(result: Result) -> np.ndarray:
    segmentation = result["segmentation"]
    return decode_mask(Annotation(0, 0, 0, (0, 0, 0, 0), 0, segmentation), *segmentation["size"])


def main() -> None:
    """Repeat the runs and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=("shapes", "fss"), default=["shapes", "fss"])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="has real/ and golden/published/")
    args = parser.parse_args()
    columns = (
        "instances, ours and theirs",
        "labels",
        "boxes",
        "pixels",
        "largest score difference",
        "box AP",
        "mask AP",
    )
    table = Table("case", *columns)
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.cases:
            case = shapes_case(Path(temporary) / "shapes") if name == "shapes" else fss_case(args.shared)
            output = Path(temporary) / f"{name} run"
            subprocess.run([sys.executable, str(ROOT / "run_lightening.py"), *case.arguments(output)], check=True)
            found, expected = (json.loads(path.read_text()) for path in (output / "results.json", case.results))
            agreement = compare(found, expected)
            precisions = average_precision(case, found), average_precision(case, expected)
            table.add_row(
                name,
                "{}, {}".format(*agreement.instances),
                *(str(count) for count in (agreement.labels, agreement.boxes, agreement.pixels)),
                f"{agreement.score:.1e}",
                *(", ".join(f"{ap[kind]:.4f}" for ap in precisions) for kind in ("bbox", "segm")),
            )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
