"""Shared by the parts of `benchmarks.gpu`: sizes, models with random weights, timing."""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


class Sizes(NamedTuple):
    """Sizes of models, images and repetitions.

    Attributes:
        encoder: Its registry name.
        img_size: At which it encodes, in pixels.
        sam2: Configuration, or folder.
        points: Prompts along a side of the grid.
        repeats: Counted rounds.
        batch: Images together, where one is compared with many.
        square: Side of the matrices by which rates are measured.
        masks: Candidates to match.
    """

    encoder: str
    img_size: int
    sam2: str
    points: int
    repeats: int
    batch: int
    square: int
    masks: int


FULL = Sizes("dinov3_large", 592, "sam2_hiera_l.yaml", 32, 5, 8, 8192, 1024)
TINY = Sizes("dinov3_small", 64, str(QUICKSTART / "sam2"), 4, 1, 2, 128, 24)


@dataclass(frozen=True)
class Bench:
    """A run.

    Attributes:
        device: Where it runs.
        sizes: How large.
        out: Folder for files.
        left: Seconds that a part may take.
    """

    device: torch.device
    sizes: Sizes
    out: Path
    left: float

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is a CUDA device."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def milliseconds(self, function: Callable[[], Any], *, warm: int = 2, repeats: int | None = None) -> float:
        """Return the median of several calls, each from an idle device until it is idle again."""
        for _ in range(warm if self.is_gpu else 0):
            function()
        times = []
        for _ in range(repeats or self.sizes.repeats):
            self.synchronize()
            begin = time.perf_counter()
            function()
            self.synchronize()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def baseline(self, preset: str, *, compile: bool = False) -> Sam2MatchingBaseline_noAMG:
        """Build a preset with random weights, and put it on the device."""
        prior = preset == "fast"
        infer = {"points_per_side": self.sizes.points, "prompt_selection": "prior" if prior else "grid"}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*random weights")
            built = Sam2MatchingBaseline_noAMG(
                self.sizes.sam2,
                sam2_infer_cfgs=infer,
                encoder_cfg={"name": self.sizes.encoder, "img_size": self.sizes.img_size},
                random_init=True,
                precision="bf16" if prior else "fp32",
                compile=compile,
            )
        return built.to(self.device)

    def image(self, width: int = 640, height: int = 480, seed: int = 0) -> Tensor:
        """Return an image of smooth noise, (3, H, W)."""
        small = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        pixels = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def graphed(function: Callable[[Tensor], Any], example: Tensor) -> Callable[[Tensor], Any]:
    """Capture a function of one shape as a CUDA graph; each call overwrites what the last one gave."""
    static = example.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call] # of torch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(static)

    def replay(value: Tensor) -> Any:
        static.copy_(value)
        graph.replay()
        return result

    return replay
