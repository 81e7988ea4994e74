"""How far tokens of two backends may be apart, and why: one table, by precision and device.

The backend itself is of no account: torch, JAX on a CPU and ONNX Runtime round alike, 1.3e-5 at most between any two of
them on full-size random encoders of depth 12, in features of up to 5.
"""

from dataclasses import dataclass

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
