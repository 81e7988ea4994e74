"""The pipeline in ONNX Runtime and NumPy against the one in torch.

``python -m benchmarks.runtime [--repeats 5] [--prompts grid prior] [--precisions fp32 int8]`` looks at one image of 640
x 480 pixels with DINOv3-B at 512 pixels and SAM2-T, by each in turn, and prints the median time of each stage and the
ratio to torch. ``--peaks`` measures the peak memory of each in a process of its own instead. Weights are random, those
of the files the same as torch's; exported files are kept in ``--folder`` if one is named.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.models import build_pipeline
from no_time_to_train.models.steps import PipelineSteps

SIDE, ENCODER = 512, "dinov3_base"
STAGES = ("encode", "embed", "prompts", "match")


def write_models(folder: Path, precisions: list[str]) -> None:
    """Write random weights of both networks, and export them."""
    from no_time_to_train.configs.sam2 import SAM2_CONFIGS
    from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder
    from no_time_to_train.export.onnx import export_onnx
    from no_time_to_train.proposers.sam2.configs import to_transformers
    from no_time_to_train.proposers.sam2.weights import new_sam2

    if not (folder / "sam2").exists():
        encoder = build_encoder(ENCODER, random_init=True)
        assert isinstance(encoder, FeatureEncoder)
        encoder.model.save_pretrained(folder / "encoder")
        model: Any = new_sam2(to_transformers(SAM2_CONFIGS["sam2_hiera_t.yaml"]))
        model.save_pretrained(folder / "sam2")
    for name in ("encoder", "sam2"):
        for precision in precisions:
            output = folder / f"{name}-{precision}"
            if not output.exists():
                export_onnx(folder / name, output=output, precision=precision, verify=False)  # type: ignore[arg-type] # of argparse


def pipeline(folder: Path, kind: str, selection: str) -> PipelineSteps:
    """Build one of them, with a memory of two classes."""
    part = "" if kind == "torch" else f"-{kind}"
    config = MatcherConfig.from_settings(
        name="matching_baseline_noAMG",
        sam2_cfg_file=str(folder / f"sam2{part}"),
        encoder_cfg={"name": str(folder / f"encoder{part}"), "img_size": SIDE},
        sam2_infer_cfgs={"iou_thr": 0.0, "prompt_selection": selection},
    )
    built = build_pipeline(config, runtime="torch" if kind == "torch" else "onnx")
    memory = built.start_memory(["a", "b"])
    random = np.random.default_rng(0)
    for index in range(2):
        memory.add_mean(index, random.standard_normal(built.encoder.config.embed_dim, np.float32))
    memory.finalize()
    built.use_memory(memory)
    return built


def picture() -> np.ndarray:
    """Draw an image."""
    y, x = np.mgrid[:480, :640]
    return np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), (x + y) % 256], axis=-1).astype(np.uint8)


def look(built: PipelineSteps, pixels: np.ndarray) -> dict[str, float]:
    """Look at an image once, and return the seconds of each stage."""
    image, times = built.to_image(pixels), [time.perf_counter()]
    (patches,) = built.encode_batch([image])
    times.append(time.perf_counter())
    (embedding,) = built.features.embeddings([image])
    times.append(time.perf_counter())
    proposals = built.proposer(embedding, patches, built.memory)
    times.append(time.perf_counter())
    built.match(patches, proposals, pixels.shape[:2])
    times.append(time.perf_counter())
    return dict(zip(STAGES, np.diff(times).tolist(), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", nargs="+", default=["grid", "prior"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peaks", action="store_true")
    parser.add_argument("--one", help="of --peaks: the kind that this process looks with")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*random weights")
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.folder or Path(temporary)
        kinds = ["torch", *arguments.precisions]
        if arguments.one:
            look(pipeline(folder, arguments.one, "grid"), picture())
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
        write_models(folder, arguments.precisions)
        if arguments.peaks:
            for kind in kinds:
                command = [sys.executable, "-m", "benchmarks.runtime", "--one", kind, "--folder", str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                print(f"{kind:>6}: {int(done.stdout.split()[-1]) / 1024:.0f} MB")
            return
        for selection in arguments.prompts:
            _compare(folder, kinds, selection, arguments.repeats)


def _compare(folder: Path, kinds: list[str], selection: str, repeats: int) -> None:
    pixels, built = picture(), {kind: pipeline(folder, kind, selection) for kind in kinds}
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for index in range(repeats + 1):
        for kind in kinds:
            times = look(built[kind], pixels)
            if index:
                taken[kind].append(times)
    totals = {kind: [sum(times.values()) for times in rounds] for kind, rounds in taken.items()}
    print(f"{selection}, {repeats} repeats, medians in ms")
    for kind, rounds in taken.items():
        stages = "  ".join(f"{name} {1000 * statistics.median(times[name] for times in rounds):.0f}" for name in STAGES)
        ratios = [own / theirs for own, theirs in zip(totals[kind], totals["torch"], strict=True)]
        print(
            f"{kind:>6}: {1000 * statistics.median(totals[kind]):6.0f}, of torch's {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {stages}"
        )


if __name__ == "__main__":
    main()
