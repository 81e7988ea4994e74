"""Which stage of which block is the first that differs by more than what came into it.

Every stage of a backend is held against the same stage of torch in float64, computed on the backend's own input: what
is left is the error that the stage itself made. It is at fault where that is far beyond what torch makes in the
backend's precision on the same input. How far errors travel and grow is of no account, so that nothing is estimated.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.parity.backends import Backend, torch_model_of
from no_time_to_train.parity.stages import (
    AFTER_BLOCKS,
    EMBEDDING,
    FINAL_NORM,
    PIXEL_VALUES,
    Stage,
    Trace,
    compute_stage,
    stages_of,
    trace_torch,
)

# How many times torch's own rounding a stage may err by: the largest error, and the largest of every channel, so that
# one channel of large values hides no other. Sound backends were seen to err by 1.6 times as much on full-size models,
# and by 7 where little is compared, on a ConvNeXt's last map of a single pixel; a channel has fewer values still.
_FACTOR = 8.0
_CHANNEL_FACTOR = 20.0
# Sums of many products may be summed in another order, and are then off by more.
_SUMMING = ("embedding", "downsample", "conv_raw", "attn_raw", "mlp_raw")
_SUMMING_FACTOR = 1.5
# Below so many units in the last place of the largest value there is nothing to tell.
_LAST_PLACES = 4.0
# Of files that compute in less than they take and give: the norm of a stage's own error over that of its values. Six
# times what was seen of sound fp16 files (6e-4), and twice what was seen of int8 (0.05, with SwiGLU).
_RELATIVE = {"fp16": 4e-3, "int8": 0.1}
# transformers computes the angles of RoPE in float32, whatever the rest is in.
_DTYPES = {"fp32": torch.float32, "fp64": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_MEMORY = 1 << 30
_PLACES = {
    EMBEDDING: "the embedding",
    FINAL_NORM: "the final norm",
    "neck_stride4": "the neck, stride 4",
    "neck_stride8": "the neck, stride 8",
    "neck_stride16": "the neck, stride 16",
    "predicted_iou": "the decoder, predicted IoU",
    "mask_logits": "the decoder, mask logits",
    "object_score": "the decoder, object score",
}


@dataclass(frozen=True)
class StageDrift:
    """How far a backend is off at one stage.

    Attributes:
        backend: Its name.
        block: Counted from 0, a ConvNeXt's through all stages; -1 for the embedding, the depth and more for what
            follows the blocks.
        stage: `embedding`, `final_norm`, or as `parity.stages` and `parity.sam2.stages` name them.
        max_abs: The largest difference to the reference.
        growth: That over the same of the stage before; None where there is none before, or it was 0.
        own_error: The largest error that the stage itself made; None where no torch model has its weights.
        rounding: The largest that torch makes there in the backend's precision; None likewise.
        excess: The own error in units of what is allowed; above 1 the stage is at fault. None likewise.
    """

    backend: str
    block: int
    stage: str
    max_abs: float
    growth: float | None
    own_error: float | None
    rounding: float | None
    excess: float | None

    @property
    def at_fault(self) -> bool:
        """Return whether the stage's own error is beyond rounding."""
        return self.excess is not None and not self.excess <= 1

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return _PLACES.get(self.stage, f"block {self.block}, {self.stage}")


class TracedBackend(Protocol):
    """A backend whose stages can be seen."""

    @property
    def name(self) -> str:
        """`torch`, `eqx` or `onnx`, and a number where there is another of the kind."""

    @property
    def kind(self) -> str:
        """The same without a number."""

    @property
    def precision(self) -> str:
        """fp32, bf16, fp16 or int8."""

    def trace(self, pixels: Float[np.ndarray, "B 3 H W"]) -> Trace:
        """Return what comes out of every stage that can be seen, on the CPU; shapes may be flat."""


@dataclass(frozen=True)
class TorchStages:
    """The torch model that others are held against.

    Attributes:
        stages: In their order.
        trace: Returns what comes out of them for some images.
    """

    stages: Sequence[Stage]
    trace: Callable[[Float[np.ndarray, "B 3 H W"]], Trace]


def measure_stages(backends: Sequence[Backend], pixels: Float[np.ndarray, "B 3 H W"]) -> tuple[StageDrift, ...]:
    """Compare all stages of several encoders.

    Args:
        backends: The first is the reference.
        pixels: RGB, normalised, float32. They are encoded some at a time, so that the stages fit in memory.

    Returns:
        One backend after another. The reference is there itself where torch does not run it, but with its weights.
    """
    model = torch_model_of(backends)
    if model is None:
        return compare_stages(backends, _parts(backends[0], pixels), None, backends[0].config.depth)
    place = next(model.parameters())

    def trace(part: Float[np.ndarray, "B 3 H W"]) -> Trace:
        return trace_torch(model, torch.from_numpy(part).to(place.device, place.dtype))

    found = TorchStages(stages_of(model), trace)
    return compare_stages(backends, _parts(backends[0], pixels), found, backends[0].config.depth)


def compare_stages(
    backends: Sequence[TracedBackend],
    parts: Iterable[Float[np.ndarray, "B 3 H W"]],
    model: TorchStages | None,
    depth: int = 0,
) -> tuple[StageDrift, ...]:
    """Compare all stages of several backends; see `measure_stages`.

    Args:
        backends: The first is the reference.
        parts: Images, some at a time.
        model: The torch model with the weights; None if there is none, so that no stage can be judged.
        depth: Number of blocks, where no backend shows them.
    """
    stages = () if model is None else model.stages
    worst: dict[tuple[str, str], _Error] = {}
    for part in parts:
        # One trace beside the reference's is held at a time.
        reference = backends[0].trace(part)
        if model is not None and backends[0].kind != "torch":
            reference = _shaped(reference, model.trace(part))
        for backend in backends:
            if backend is backends[0] and (backend.kind == "torch" or model is None):
                continue
            trace = reference if backend is backends[0] else backend.trace(part)
            trace = trace if model is None else _shaped(trace, reference)
            for error in _errors(backend, trace, reference, stages, part):
                key = (backend.name, error.name)
                worst[key] = error if key not in worst else worst[key].worse(error)
    return tuple(_drifts(worst, depth))


@dataclass(frozen=True)
class _Error:
    name: str
    max_abs: float
    own: float | None
    rounding: float | None
    excess: float | None

    def worse(self, other: "_Error") -> "_Error":
        def larger(one: float | None, another: float | None) -> float | None:
            return None if one is None or another is None else float(np.maximum(one, another))  # keeps NaN

        return _Error(
            self.name,
            float(np.maximum(self.max_abs, other.max_abs)),
            larger(self.own, other.own),
            larger(self.rounding, other.rounding),
            larger(self.excess, other.excess),
        )


def _errors(
    backend: TracedBackend, trace: Trace, reference: Trace, stages: Sequence[Stage], pixels: np.ndarray
) -> Iterator[_Error]:
    by_name = {stage.name: stage for stage in stages}
    known = {**trace, PIXEL_VALUES: torch.from_numpy(pixels)}
    for name, values in trace.items():
        if name not in reference or reference[name].numel() != values.numel():
            continue
        away = _largest(values.double() - reference[name].reshape(values.shape).double())
        stage = by_name.get(name)
        if stage is None or any(given not in known for given in stage.inputs):
            # An input is another's output, and makes no error of its own.
            nothing = 0.0 if stages and name.endswith(".input") else None
            yield _Error(name, away, nothing, nothing, nothing)
            continue
        inputs = [known[given] for given in stage.inputs]
        precision = "fp32" if stage.full_precision else backend.precision
        yield _Error(name, away, *_own_error(precision, stage, inputs, values))


def _own_error(precision: str, stage: Stage, inputs: Sequence[Tensor], values: Tensor) -> tuple[float, float, float]:
    """Return a stage's own error, torch's, and the own one in units of what is allowed."""
    exact = compute_stage(stage, [given.double() for given in inputs])
    difference = values.double() - exact
    own = _largest(difference)
    dtype = _DTYPES.get(precision, torch.float32)
    relative = _RELATIVE.get(precision)
    if relative is not None:
        size = exact.norm().item()
        return own, 0.0, _over(difference.norm().item(), relative * size)
    rounded = compute_stage(stage, [given.to(dtype) for given in inputs])
    noise = rounded.double() - exact
    order = _SUMMING_FACTOR if stage.name.endswith(_SUMMING) else 1.0
    rounding = _largest(noise)
    least = torch.finfo(dtype).eps * _LAST_PLACES
    excess = _over(own, max(order * _FACTOR * rounding, least * _largest(exact)))
    channels, noises, sizes = (_by_channel(values) for values in (difference, noise, exact))
    # Of few tokens a channel's largest rounding may be small by chance.
    allowed = torch.maximum(order * _CHANNEL_FACTOR * torch.maximum(noises, noises.median()), least * sizes)
    return own, rounding, float(np.maximum(excess, max(map(_over, channels.tolist(), allowed.tolist()))))


def _over(error: float, allowed: float) -> float:
    """Return an error in units of what is allowed."""
    return error / allowed if allowed else (0.0 if error == 0 else math.inf)


def _by_channel(values: Tensor) -> Tensor:
    """Return the largest value of every channel."""
    return values.abs().flatten(0, -2).amax(0)


def _drifts(worst: dict[tuple[str, str], _Error], depth: int) -> Iterator[StageDrift]:
    before: dict[str, float] = {}
    depth = max((int(name.split(".")[1]) + 1 for _, name in worst if name.count(".") == 2), default=depth)
    for (backend, name), error in worst.items():
        parts = name.split(".")
        if len(parts) == 3:
            block = int(parts[1])
        elif name in AFTER_BLOCKS:
            block = depth + AFTER_BLOCKS.index(name)
        else:
            block = -1 if name == EMBEDDING else depth
        growth = error.max_abs / before[backend] if before.get(backend) else None
        before[backend] = error.max_abs
        yield StageDrift(backend, block, parts[-1], error.max_abs, growth, error.own, error.rounding, error.excess)


def _parts(reference: Backend, pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Give as many images at a time as leave the stages of a backend within a gigabyte, equally many each time."""
    config = reference.config
    patches = pixels.shape[2] * pixels.shape[3] // config.patch_size**2
    # A ConvNeXt's first stages have more pixels and fewer channels: less than three times the values in all.
    values = (patches + reference.num_prefix) * config.embed_dim * (8 * config.depth + 2)
    fitting = max(1, _MEMORY // (4 * values))
    count = next(size for size in range(min(len(pixels), fitting), 0, -1) if len(pixels) % size == 0)
    for begin in range(0, len(pixels), count):
        yield pixels[begin : begin + count]


def _shaped(trace: Trace, shapes: Trace) -> Trace:
    return {
        name: values.reshape(shapes[name].shape)
        for name, values in trace.items()
        if name in shapes and shapes[name].numel() == values.numel()
    }


def _largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0
