"""How far what two SAM2s say is apart, and how far it may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from no_time_to_train.parity.drift import Pair, TokenDrift, token_drift, tolerance_of
from no_time_to_train.parity.sam2.backends import Outputs, Sam2Backend
from no_time_to_train.parity.stages import NECK

# Fewer pixels of masks than these tell nothing: one that changes sides would be 1 % and more.
_FEWEST_PIXELS = 100


@dataclass(frozen=True)
class MaskTolerance:
    """What masks may differ by where images are embedded in less than fp32.

    Attributes:
        numbers: The largest difference of predicted IoUs, mask logits and object scores, in units of the largest value
            where that is above 1.
        least_iou: Of all masks together.
        reason: Why so much.
    """

    numbers: float
    least_iou: float
    reason: str


# By precision; the worst was seen on 92 images by the quickstart model, 8 prompts and 24 masks each.
MASK_TOLERANCES: Mapping[str, MaskTolerance] = {
    "fp32": MaskTolerance(1e-3, 0.99, "on a GPU; not measured: no GPU was there"),
    "fp16": MaskTolerance(5e-3, 0.98, "five times what was seen, 9e-4; the masks' IoU was 0.996 and more"),
    "bf16": MaskTolerance(4e-2, 0.9, "eight times fp16's, which rounds to three bits more"),
    "int8": MaskTolerance(0.15, 0.8, "three times what was seen, 0.05; the masks' IoU was 0.917 and more"),
}


@dataclass(frozen=True)
class MaskOverlap:
    """How far masks, the pixels of positive logits, are the same.

    Attributes:
        least_iou: Of the prompts' best masks, by the reference's predicted IoU; two empty masks are the same.
        least_pixels: Pixels of that mask in the reference: one of few pixels may vanish by rounding.
        total_iou: Of all masks together.
        pixels: Of all masks together in the reference.
    """

    least_iou: float
    least_pixels: int
    total_iou: float
    pixels: int

    def __str__(self) -> str:
        return (
            f"IoU {self.total_iou:.4f} of all together ({self.pixels} pixels), "
            f"{self.least_iou:.3f} of the worst prompt ({self.least_pixels} pixels)"
        )


@dataclass(frozen=True)
class Sam2PairDrift(Pair):
    """How far two SAM2s are apart.

    Attributes:
        pair: Their names, such as `torch-onnx`.
        ok: Whether all of it is within the pair's tolerance.
        expected: What that is, in words.
        stride4: Of the embeddings at stride 4, position by position.
        stride8: At stride 8.
        stride16: At stride 16.
        predicted_iou: Of the masks' predicted IoUs, prompt by prompt.
        mask_logits: Of the mask logits, mask by mask.
        object_score: Of the object scores, image by image.
        masks: Of the masks.
    """

    stride4: TokenDrift
    stride8: TokenDrift
    stride16: TokenDrift
    predicted_iou: TokenDrift
    mask_logits: TokenDrift
    object_score: TokenDrift
    masks: MaskOverlap

    @property
    def embeddings(self) -> tuple[TokenDrift, ...]:
        """Of the embeddings, from the finest to the coarsest."""
        return self.stride4, self.stride8, self.stride16

    @property
    def parts(self) -> dict[str, TokenDrift]:
        """How far each kind of output is apart, by its name in words."""
        return {
            "embeddings, stride 4": self.stride4,
            "embeddings, stride 8": self.stride8,
            "embeddings, stride 16": self.stride16,
            "predicted IoU": self.predicted_iou,
            "mask logits": self.mask_logits,
            "object score": self.object_score,
        }

    @property
    def summary(self) -> str:
        """The figures that a line of text shows."""
        worst = max(level.away for level in self.embeddings)
        return f"1 - cosine: worst embedding {worst:.1e}, worst mask {self.mask_logits.away:.1e}"

    @property
    def details(self) -> tuple[str, ...]:
        """Further lines of text."""
        return self.apart, f"masks: {self.masks}"

    @property
    def apart(self) -> str:
        """The figures that a sentence about a failure names."""
        embeddings = np.max([level.max_abs for level in self.embeddings])
        return (
            f"embeddings by {embeddings:.1e}, mask logits by {self.mask_logits.max_abs:.1e} "
            f"({self.mask_logits.relative:.1e} of their norm), predicted IoU by {self.predicted_iou.max_abs:.1e}, "
            f"object score by {self.object_score.max_abs:.1e}"
        )


def compare_pair(
    one: Sam2Backend, first: Outputs, other: Sam2Backend, second: Outputs, tolerance: float
) -> Sam2PairDrift:
    """Compare what two backends say, and judge it.

    Args:
        one: The reference.
        first: What it says, in float64.
        other: The other.
        second: What that says.
        tolerance: Of the largest difference in fp32 on a CPU, in units of the largest value where that is above 1.
    """
    judged = [*NECK, "predicted_iou", "mask_logits", "object_score"]
    apart = {name: token_drift(_tokens(name, first), _tokens(name, second)) for name in judged}
    sizes = {name: max(1.0, float(np.abs(first[name]).max())) for name in judged}
    masks = _overlap(first, second)
    least = tolerance_of((one.precision, one.device), (other.precision, other.device)).least_cosine
    if least is None:
        ok = all(apart[name].max_abs <= tolerance * sizes[name] < np.inf for name in judged)
        expected = f"differences of at most {tolerance:.1e} of the largest value"
    else:
        allowed = max((MASK_TOLERANCES[each.precision] for each in (one, other)), key=lambda each: each.numbers)
        cosines = all(apart[name].least_cosine >= least for name in (*NECK, "mask_logits"))
        numbers = all(apart[name].max_abs <= allowed.numbers * sizes[name] for name in judged[len(NECK) :])
        overlap = masks.pixels < _FEWEST_PIXELS or masks.total_iou >= allowed.least_iou
        ok = cosines and numbers and overlap
        expected = (
            f"cosines of at least {least}, numbers within {allowed.numbers:g} of the largest, "
            f"an IoU of all masks together of at least {allowed.least_iou:g}"
        )
    levels: dict[str, Any] = dict(zip(("stride4", "stride8", "stride16"), (apart[name] for name in NECK), strict=True))
    rest: dict[str, Any] = {name: apart[name] for name in judged[len(NECK) :]}
    return Sam2PairDrift(f"{one.name}-{other.name}", bool(ok), expected, **levels, **rest, masks=masks)


def _tokens(name: str, outputs: Outputs) -> Float[np.ndarray, "... D"]:
    """Return an output with the last axis a position's, a prompt's, a mask's or an image's."""
    values = outputs[name]
    return values if name != "mask_logits" else _by_mask(values)


def _by_mask(logits: Float[np.ndarray, "B h w M"]) -> Float[np.ndarray, "B M P"]:
    return np.moveaxis(logits, -1, 1).reshape(len(logits), logits.shape[-1], -1)


def _overlap(first: Outputs, second: Outputs) -> MaskOverlap:
    inside, other = (_by_mask(outputs["mask_logits"]) > 0 for outputs in (first, second))
    shared, either = _pixels(inside & other), _pixels(inside | other)
    # The masks of a prompt follow each other; see `Outputs`.
    predicted = first["predicted_iou"]
    prompts = np.arange(predicted.shape[1]) * predicted.shape[2]
    best = prompts + predicted.argmax(-1)
    ious = np.take_along_axis(np.where(either > 0, shared / np.maximum(either, 1), 1.0), best, axis=1)
    pixels = np.take_along_axis(_pixels(inside), best, axis=1)
    total = int(either.sum())
    return MaskOverlap(
        least_iou=float(ious.min()),
        least_pixels=int(pixels.ravel()[ious.argmin()]),
        total_iou=float(shared.sum() / total) if total else 1.0,
        pixels=int(inside.sum()),
    )


def _pixels(masks: Bool[np.ndarray, "B M P"]) -> np.ndarray:
    count: np.ndarray = masks.sum(-1)
    return count
