"""The same images by several backends, and how far their features are apart."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from no_time_to_train import __version__
from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.errors import ConfigError, WeightsFormatError
from no_time_to_train.io.messages import finite
from no_time_to_train.parity.backends import AnyEncoder, Backend, backend_of
from no_time_to_train.parity.drift import FP32_TOLERANCE, Pair, PairDrift, token_drift, tolerance_of
from no_time_to_train.parity.drift import TokenDrift as TokenDrift  # where the first release has it
from no_time_to_train.parity.reference_values import KnownAnswer
from no_time_to_train.parity.stage_errors import StageDrift, measure_stages

_PACKAGES = ("torch", "transformers", "jax", "equinox", "onnx", "onnxruntime", "jax2onnx")


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        pairs: Every pair of backends, the reference's first.
        shape: Of the images.
        blocks: Every stage of every backend but the reference; empty where they were not asked for, or cannot be seen.
    """

    pairs: tuple[Pair, ...]
    shape: tuple[int, ...]
    blocks: tuple[StageDrift, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether every pair is within its tolerance, and no stage errs by more than it rounds."""
        return all(pair.ok for pair in self.pairs) and self.first_drift is None

    @property
    def first_drift(self) -> StageDrift | None:
        """The first stage of the network that errs by more than it rounds, whatever comes into it."""
        return next(iter(self.faults), None)

    @property
    def faults(self) -> tuple[StageDrift, ...]:
        """All stages that err by more than they round, in the network's order."""
        order = list(dict.fromkeys(stage.stage for stage in self.blocks))
        faults = [stage for stage in self.blocks if stage.at_fault]
        return tuple(sorted(faults, key=lambda stage: (stage.block, order.index(stage.stage))))

    def __str__(self) -> str:
        """Say in a sentence what was found."""
        drift = self.first_drift
        if drift is None:
            return _verdict(self.pairs, judged=any(stage.excess is not None for stage in self.blocks))
        rest = _others(self.faults, drift, max(stage.block for stage in self.blocks))
        return (
            f"{drift.backend} first drifts at {drift.place}: the stage itself errs by {drift.own_error:.1e}, "
            f"{drift.excess:.3g} times what is allowed for rounding{rest}"
        )

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in plain types; numbers that JSON does not know are None."""
        drift = self.first_drift
        told = {
            "ok": self.ok,
            "summary": str(self),
            "shape": list(self.shape),
            "pairs": [asdict(pair) for pair in self.pairs],
            "first_drift": None if drift is None else asdict(drift),
            "blocks": [asdict(stage) | {"at_fault": stage.at_fault} for stage in self.blocks],
        }
        return dict(finite(told))


@dataclass(frozen=True)
class ParityReport(Report):
    """What a comparison of encoders found.

    Attributes:
        pairs: Every pair of backends, the reference's first.
        shape: Of the images.
        blocks: Every stage of every backend but the reference; empty where they were not asked for, or cannot be seen.
    """

    pairs: tuple[PairDrift, ...]


def compare_features(
    reference: AnyEncoder,
    *others: AnyEncoder,
    pixel_values: Float[np.ndarray | torch.Tensor, "B 3 H W"],
    tolerance: float | None = None,
    blocks: bool = True,
) -> ParityReport:
    """Encode the same images by several backends and compare every token, and every stage on the way to it.

    Args:
        reference: A torch encoder, an ONNX one or the folder of its export, or an Equinox encoder.
        others: One or more of the same kinds.
        pixel_values: RGB, normalised; float32.
        tolerance: For pairs that are compared by number: of the largest difference, in units of the largest feature
            where that is above 1. FP32_TOLERANCE if None. Others are judged by the cosine of their worst token; see
            `parity.drift.TOLERANCES`.
        blocks: Whether to look at the stages too, which takes some three times as long.

    Returns:
        Every pair; two backends of one kind are named `torch` and `torch2`.

    Raises:
        ConfigError: There is nothing to compare with, or the encoders have other shapes.
        ImageSizeError: An encoder does not take images of that size.
        WeightsFormatError: A folder holds no whole export.
        WeightsNotFoundError: There is no such folder.
    """
    if not others:
        raise ConfigError("one encoder alone cannot be compared", remedy="name two or more")
    pixels = checked_pixels(pixel_values)
    backends: list[Backend] = []
    for encoder in (reference, *others):
        backends.append(backend_of(encoder, [backend.name for backend in backends]))
    for backend in backends:
        check_image_size(pixels.shape[2], pixels.shape[3], backend.config)
    with _evaluating(backends):
        outputs = [tuple(array.astype(np.float64) for array in backend.outputs(pixels)) for backend in backends]
        alike = len({states.shape for states, _ in outputs}) == 1
        stages = measure_stages(backends, pixels) if blocks and alike else ()
    for backend, (states, _) in zip(backends, outputs, strict=True):
        check_not_zero(backend.name, states)
    tokens = [states for states, _ in outputs]
    if len({array.shape for array in tokens}) > 1 or len({backend.num_prefix for backend in backends}) > 1:
        shapes = ", ".join(f"{one.name} {array.shape}" for one, array in zip(backends, tokens, strict=True))
        raise ConfigError(
            f"the encoders give tokens of other shapes: {shapes}", remedy="compare one encoder's backends"
        )
    pairs = []
    for (one, first), (other, second) in combinations(zip(backends, outputs, strict=True), 2):
        pairs.append(_pair(one, first, other, second, FP32_TOLERANCE if tolerance is None else tolerance))
    return ParityReport(tuple(pairs), tuple(pixels.shape), stages)


def checked_pixels(pixel_values: Float[np.ndarray | torch.Tensor, "B 3 H W"]) -> Float[np.ndarray, "B 3 H W"]:
    """Return images as a float32 array.

    Raises:
        ConfigError: They are not RGB images, or hold NaN or Inf.
    """
    pixels = pixel_values.detach().cpu().float().numpy() if isinstance(pixel_values, torch.Tensor) else pixel_values
    pixels = np.ascontiguousarray(pixels, np.float32)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.size:
        raise ConfigError(f"the images are {pixels.shape}, expected (B, 3, H, W)", remedy="give one or more RGB images")
    if not np.isfinite(pixels).all():
        raise ConfigError("the images hold NaN or Inf", remedy="give others")
    return pixels


def check_not_zero(backend: str, values: np.ndarray, what: str = "token") -> None:
    """Refuse a backend whose outputs are all zero.

    Raises:
        WeightsFormatError: They are.
    """
    if not values.any():
        raise WeightsFormatError(
            f"{backend} gives zeros for every {what}: they agree with others and say nothing",
            remedy="check the weights with ntt inspect: all of them may be zero",
        )


@contextmanager
def _evaluating(backends: Sequence[Backend]) -> Iterator[None]:
    """Have torch encoders in evaluation mode meanwhile: in training they move patches about at random."""
    parts = [part for one in backends if isinstance(one.encoder, Encoder) for part in one.encoder.modules()]
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _pair(
    one: Backend, outputs: Sequence[np.ndarray], other: Backend, others: Sequence[np.ndarray], tolerance: float
) -> PairDrift:
    prefix = one.num_prefix
    (first, first_pooled), (second, second_pooled) = outputs, others
    patches = token_drift(first[:, prefix:], second[:, prefix:])
    kinds = {
        "cls": token_drift(first[:, :1], second[:, :1]),
        "pooled": token_drift(first[:, prefix:].mean(1, keepdims=True), second[:, prefix:].mean(1, keepdims=True)),
        "patches": patches,
        "pooler": token_drift(first_pooled, second_pooled),
    }
    storage = token_drift(first[:, 1:prefix], second[:, 1:prefix]) if prefix > 1 else None
    every = [*kinds.values(), *([] if storage is None else [storage])]
    least = tolerance_of((one.precision, one.device), (other.precision, other.device)).least_cosine
    if least is None:
        allowed = tolerance * max(1.0, float(np.abs(first).max()))
        ok = bool(np.isfinite(allowed)) and all(drift.max_abs <= allowed for drift in every)
        expected = f"a difference of at most {allowed:.1e}"
    else:
        ok = all(drift.least_cosine >= least for drift in every)
        expected = f"a token cosine of at least {least}"
    return PairDrift(f"{one.name}-{other.name}", bool(ok), expected, **kinds, storage=storage)


def _verdict(pairs: Sequence[Pair], *, judged: bool) -> str:
    wrong = [pair for pair in pairs if not pair.ok]
    if not wrong:
        return "all pairs are within their tolerance" + (", and no stage errs by more than it rounds" if judged else "")
    pair = wrong[0]
    blame = "; no stage alone is at fault: rounding has grown on the way" if judged else ""
    return f"{pair.pair} drift apart: {pair.apart}; expected {pair.expected}{blame}"


def _others(faults: Sequence[StageDrift], first: StageDrift, depth: int) -> str:
    """Say where else a backend is at fault; what errs alike in every block is more likely to be what blocks share."""
    others = [fault for fault in faults if fault.backend == first.backend and fault is not first]
    if not others:
        return "; no other stage is at fault"
    alike = {fault.block for fault in others if fault.stage == first.stage} | {first.block}
    if first.stage == "attn_raw" and len(alike) == depth == len(others) + 1:
        return f"; so do all {len(alike)} blocks there: look at what they share, the RoPE periods"
    named = ", ".join(fault.place for fault in others[:3]) + (" and more" if len(others) > 3 else "")
    return f"; so are {len(others)} other stages: {named}" if len(others) > 1 else f"; so is {named}"


@dataclass(frozen=True)
class BackendInfo:
    """One of the backends.

    Attributes:
        name: `torch`, `eqx` or `onnx`, with a number where there are several.
        source: Where it came from.
        precision: fp32, bf16, fp16 or int8.
        device: cpu or cuda.
        fingerprint: Identity of its architecture and weights.
    """

    name: str
    source: str
    precision: str
    device: str
    fingerprint: str


@dataclass(frozen=True)
class Case:
    """What was found for images of one size and number.

    Attributes:
        title: The size and batch, and the images.
        report: What was found.
        pictures: PNG files by their names, with what they show.
    """

    title: str
    report: Report
    pictures: Mapping[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Result:
    """All that a comparison found.

    Attributes:
        encoder: The registry's name, or a SAM2's.
        backends: What was compared; the first is the reference.
        cases: A size and batch each.
        known_answer: For the photograph that answers are published for.
    """

    encoder: str
    backends: tuple[BackendInfo, ...]
    cases: tuple[Case, ...]
    known_answer: KnownAnswer | None = None

    @property
    def ok(self) -> bool:
        """Return whether every verdict holds."""
        return all(case.report.ok for case in self.cases) and (self.known_answer is None or self.known_answer.ok)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the pictures in plain types."""
        known = self.known_answer
        return {
            "ok": self.ok,
            "encoder": self.encoder,
            "backends": [vars(backend) for backend in self.backends],
            "known_answer": None if known is None else finite(vars(known) | {"ok": known.ok, "summary": str(known)}),
            "versions": versions(),
            "cases": [{"title": case.title, **case.report.to_dict()} for case in self.cases],
        }


def versions() -> dict[str, str]:
    """Return what the comparison ran on."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    own = {"python": platform.python_version(), "machine": machine, "no_time_to_train": __version__}
    return own | {name: version(name) for name in _PACKAGES}
