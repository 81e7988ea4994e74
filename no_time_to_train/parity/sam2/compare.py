"""The same images and prompts by several SAM2s, and how far what they say is apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from no_time_to_train.errors import ConfigError, ImageSizeError
from no_time_to_train.jax_models.sam2 import Sam2
from no_time_to_train.parity.backends import numbered
from no_time_to_train.parity.compare import Report, check_not_zero, checked_pixels
from no_time_to_train.parity.drift import FP32_TOLERANCE
from no_time_to_train.parity.sam2.backends import Sam2Backend
from no_time_to_train.parity.sam2.drift import Sam2PairDrift, compare_pair
from no_time_to_train.parity.sam2.equinox_backend import EquinoxSam2
from no_time_to_train.parity.sam2.onnx_backend import read_onnx_sam2
from no_time_to_train.parity.sam2.stages import sam2_stages
from no_time_to_train.parity.sam2.torch_backend import TorchSam2
from no_time_to_train.parity.stage_errors import StageDrift, TorchStages, compare_stages
from no_time_to_train.parity.stages import DECODED, NECK
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

AnySam2 = Sam2Predictor | Sam2 | Path | str


@dataclass(frozen=True)
class Sam2Report(Report):
    """What a comparison of SAM2s found.

    Attributes:
        pairs: Every pair of backends, the reference's first.
        shape: Of the images.
        blocks: Every stage of every backend but the reference; empty where they were not asked for.
    """

    pairs: tuple[Sam2PairDrift, ...]


def compare_sam2(
    reference: AnySam2,
    *others: AnySam2,
    pixel_values: Float[np.ndarray | torch.Tensor, "B 3 S S"],
    tolerance: float | None = None,
    blocks: bool = True,
) -> Sam2Report:
    """Embed the same images by several SAM2s, decode the same prompts, and compare all of it.

    Args:
        reference: A torch model, an Equinox one, or the folder of an export.
        others: One or more of the same kinds.
        pixel_values: RGB of the models' size, normalised; float32.
        tolerance: For pairs in fp32 on a CPU: of the largest difference, in units of the largest value where that is
            above 1. FP32_TOLERANCE if None.
        blocks: Whether to look at the stages too.

    Raises:
        ConfigError: There is nothing to compare with, or the images hold NaN or Inf.
        ImageSizeError: The images are not of a model's size.
        WeightsFormatError: A folder holds no whole export, or a model gives zeros.
        WeightsNotFoundError: There is no such folder.
    """
    backends: list[Sam2Backend] = []
    for model in (reference, *others):
        backends.append(sam2_backend(model, [backend.name for backend in backends]))
    return compare_backends(backends, checked_pixels(pixel_values), tolerance=tolerance, blocks=blocks)


def sam2_backend(model: AnySam2, taken: Sequence[str] = (), weights: Path | None = None) -> Sam2Backend:
    """Wrap a SAM2.

    Args:
        model: A torch model, an Equinox one, or the folder of an export.
        taken: Names of other backends.
        weights: The file or folder that an Equinox model was loaded from, so that its stages can be judged.
    """
    if isinstance(model, Sam2Predictor):
        return TorchSam2(numbered("torch", taken), model)
    if isinstance(model, Sam2):
        return EquinoxSam2(numbered("eqx", taken), model, weights)
    return read_onnx_sam2(Path(model), numbered("onnx", taken))


def compare_backends(
    backends: Sequence[Sam2Backend],
    pixels: Float[np.ndarray, "B 3 S S"],
    *,
    tolerance: float | None = None,
    blocks: bool = True,
) -> Sam2Report:
    """Compare backends; see `compare_sam2`."""
    if len(backends) < 2:
        raise ConfigError("one SAM2 alone cannot be compared", remedy="name two or more")
    for backend in backends:
        if pixels.shape[2:] != (backend.side, backend.side):
            raise ImageSizeError(
                f"images of {pixels.shape[2]}x{pixels.shape[3]}, {backend.name} takes {backend.side}x{backend.side}",
                remedy="compare one SAM2's backends, on images of its size",
            )
    outputs = []
    for backend in backends:
        found = {name: values.astype(np.float64) for name, values in backend.outputs(pixels).items()}
        check_not_zero(backend.name, found["mask_logits"], "mask")
        outputs.append(found)
    for name in (*NECK, *DECODED):
        shapes = {backend.name: found[name].shape for backend, found in zip(backends, outputs, strict=True)}
        if len(set(shapes.values())) > 1:
            said = ", ".join(f"{backend} {shape}" for backend, shape in shapes.items())
            raise ConfigError(f"the SAM2s give {name} of other shapes: {said}", remedy="compare one SAM2's backends")
    pairs = [
        compare_pair(one, first, other, second, FP32_TOLERANCE if tolerance is None else tolerance)
        for (one, first), (other, second) in combinations(zip(backends, outputs, strict=True), 2)
    ]
    return Sam2Report(tuple(pairs), tuple(pixels.shape), _stages(backends, pixels) if blocks else ())


def _stages(backends: Sequence[Sam2Backend], pixels: Float[np.ndarray, "B 3 S S"]) -> tuple[StageDrift, ...]:
    """Compare the stages, one image at a time, so that they fit in memory."""
    kinds = ("torch", "eqx", "onnx")
    twins = (backend.torch_twin() for backend in sorted(backends, key=lambda backend: kinds.index(backend.kind)))
    twin = next((twin for twin in twins if twin is not None), None)
    model = None
    if twin is not None:
        reference = TorchSam2("torch", twin)
        model = TorchStages(sam2_stages(twin.model, reference.prompts), reference.trace)
    return compare_stages(backends, np.split(pixels, len(pixels)), model)
