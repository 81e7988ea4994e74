"""How far the outputs of two backends are apart, and how far they may be."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

# How far tokens of two backends may be apart, by precision and device. The backend itself is of no account: torch, JAX
# on a CPU and ONNX Runtime round alike, 1.3e-5 at most between any two of them on full-size random encoders of depth
# 12, in features of up to 5.
#
# Between two encoders in fp32 on CPUs, in units of the largest feature where that is above 1: 3e-6 is the most that was
# seen, and the mildest mistake known, GELU's tanh form, costs 1e-4 (6e-4 in features of 5).
FP32_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Tolerance:
    """What two backends may differ by.

    Attributes:
        least_cosine: Of the worst token; None where numbers are compared instead.
        reason: Why so much.
    """

    least_cosine: float | None
    reason: str


_FP32 = Tolerance(None, "both round float32 alike")
# Least strict last: a pair is held to the laxer of its two.
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("fp64", "cpu"): _FP32,
    ("fp32", "cpu"): _FP32,
    ("fp64", "cuda"): Tolerance(0.99999, "as fp32"),
    ("fp32", "cuda"): Tolerance(0.99999, "cuDNN convolves in TF32, with 11 bits, unless told otherwise"),
    ("fp16", "cpu"): Tolerance(0.9999, "ten times what was seen (6e-6), and room for large activations"),
    ("fp16", "cuda"): Tolerance(0.9999, "as on a CPU"),
    ("bf16", "cpu"): Tolerance(0.995, "ten times what was seen on full-size random encoders (5e-4)"),
    ("bf16", "cuda"): Tolerance(0.995, "as on a CPU"),
    ("int8", "cpu"): Tolerance(0.99, "activations are quantised a tensor: what was seen is 0.996 and more"),
    ("int8", "cuda"): Tolerance(0.99, "as on a CPU"),
}


def tolerance_of(*kinds: tuple[str, str]) -> Tolerance:
    """Return what backends of these precisions and devices may differ by.

    Examples:
        >>> tolerance_of(("fp32", "cpu"), ("int8", "cpu")).least_cosine
        0.99
    """
    order = list(TOLERANCES)
    return TOLERANCES[max((kind if kind in TOLERANCES else (kind[0], "cuda") for kind in kinds), key=order.index)]


@dataclass(frozen=True)
class TokenDrift:
    """How far one kind of tokens is apart.

    Attributes:
        least_cosine: Of the worst token.
        mean_cosine: Over all tokens.
        max_abs: The largest difference of a number.
        mean_abs: The mean difference.
        relative: The norm of the difference over the norm of the reference.
    """

    least_cosine: float
    mean_cosine: float
    max_abs: float
    mean_abs: float
    relative: float

    @property
    def away(self) -> float:
        """1 - cosine of the worst token."""
        return 0.0 if self.least_cosine > 1 else 1 - self.least_cosine


def token_drift(first: np.ndarray, second: np.ndarray) -> TokenDrift:
    """Measure how far tokens are apart, the last axis a token's.

    Args:
        first: The reference's, in float64.
        second: The other's, of the same shape.
    """
    difference = np.abs(second - first)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = (first * second).sum(-1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return TokenDrift(
        least_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative=float(np.linalg.norm(difference) / max(np.linalg.norm(first), np.finfo(np.float64).tiny)),
    )


@dataclass(frozen=True)
class Pair(ABC):
    """Two backends.

    Attributes:
        pair: Their names, such as `torch-onnx`.
        ok: Whether all outputs are within the pair's tolerance.
        expected: What that is, in words.
    """

    pair: str
    ok: bool
    expected: str

    @property
    @abstractmethod
    def parts(self) -> dict[str, TokenDrift]:
        """How far each kind of output is apart, by its name in words."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The figures that a line of text shows."""

    @property
    @abstractmethod
    def apart(self) -> str:
        """The figures that a sentence about a failure names."""

    @property
    def details(self) -> tuple[str, ...]:
        """Further lines of text."""
        return ()

    @property
    def max_abs(self) -> float:
        """The largest difference of any output; NaN if one is."""
        return float(np.max([part.max_abs for part in self.parts.values()]))


@dataclass(frozen=True)
class PairDrift(Pair):
    """How far two encoders are apart.

    Attributes:
        pair: Their names, such as `torch-onnx`.
        ok: Whether all of them are within the pair's tolerance.
        expected: What that is, in words.
        cls: Of the CLS token.
        pooled: Of the mean of the patch tokens.
        patches: Of the patch tokens.
        pooler: Of the pooled output, which is the CLS token where a backend gives it as one of two outputs.
        storage: Of the storage tokens; None for encoders without.
    """

    cls: TokenDrift
    pooled: TokenDrift
    patches: TokenDrift
    pooler: TokenDrift
    storage: TokenDrift | None

    @property
    def parts(self) -> dict[str, TokenDrift]:
        """How far each kind of token is apart, by its name in words."""
        parts = {"CLS": self.cls, "mean patch": self.pooled, "patches": self.patches, "pooled output": self.pooler}
        return parts if self.storage is None else {**parts, "storage": self.storage}

    @property
    def summary(self) -> str:
        """The figures that a line of text shows."""
        return f"1 - cosine: CLS {self.cls.away:.1e}, worst patch {self.patches.away:.1e}"

    @property
    def apart(self) -> str:
        """The figures that a sentence about a failure names."""
        return (
            f"patches by {self.patches.max_abs:.1e} (cosine {self.patches.least_cosine:.6f}), "
            f"CLS by {self.cls.max_abs:.1e}"
        )
