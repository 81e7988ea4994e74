"""The same images by several backends, and how far their features are apart."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float

from no_time_to_train.errors import ConfigError
from no_time_to_train.export.verify import LEAST_COSINE, compiled_tokens
from no_time_to_train.jax_models.load import EqxEncoder
from no_time_to_train.models.features import Encoder
from no_time_to_train.models.onnx_encoder import OnnxEncoder, build_onnx_encoder

# Of a feature, fp32 on a CPU, in units of the largest feature where that is above 1. Two backends on full-size random
# encoders differ by up to 1.3e-5 (SwiGLU, depth 12), of which most is torch's own distance from float64; the mildest
# mistake known costs 6e-4.
FP32_TOLERANCE = 2e-5


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


@dataclass(frozen=True)
class PairDrift:
    """How far two backends are apart.

    Attributes:
        pair: Their names, such as `torch-onnx`.
        cls: Of the CLS token.
        pooled: Of the mean of the patch tokens.
        patches: Of the patch tokens.
        storage: Of the storage tokens; None for encoders without.
        ok: Whether all of them are within the pair's tolerance.
        expected: What that is, in words.
    """

    pair: str
    cls: TokenDrift
    pooled: TokenDrift
    patches: TokenDrift
    storage: TokenDrift | None
    ok: bool
    expected: str


@dataclass(frozen=True)
class ParityReport:
    """What a comparison found.

    Attributes:
        pairs: Every pair of backends, the reference's first.
        shape: Of the images.
    """

    pairs: tuple[PairDrift, ...]
    shape: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether every pair is within its tolerance."""
        return all(pair.ok for pair in self.pairs)

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2)


@dataclass(frozen=True)
class _Backend:
    name: str
    precision: str
    num_prefix: int
    tokens: Callable[[np.ndarray], np.ndarray]


def compare_features(
    reference: Encoder | EqxEncoder | Path | str,
    *others: Encoder | EqxEncoder | Path | str,
    pixel_values: Float[np.ndarray | torch.Tensor, "B 3 H W"],
    tolerance: float = FP32_TOLERANCE,
) -> ParityReport:
    """Encode the same images by several backends and compare every token.

    Args:
        reference: A torch encoder, an ONNX one or the folder of its export, or an Equinox encoder.
        others: One or more of the same kinds.
        pixel_values: RGB, normalised; float32.
        tolerance: For pairs in fp32: of the largest difference of a number, in units of the largest feature where that
            is above 1. Exports in fp16 and int8 are judged by the cosine of their worst token.

    Returns:
        Every pair; two backends of one kind are named `torch` and `torch2`.

    Raises:
        ConfigError: There is nothing to compare with, or the encoders have other shapes.
        WeightsFormatError: A folder holds no whole export.
    """
    if not others:
        raise ConfigError("one encoder alone cannot be compared", remedy="name two or more")
    pixels = pixel_values.detach().cpu().numpy() if isinstance(pixel_values, torch.Tensor) else pixel_values
    pixels = np.ascontiguousarray(pixels, np.float32)
    backends: list[_Backend] = []
    for encoder in (reference, *others):
        backends.append(_backend(encoder, [backend.name for backend in backends]))
    tokens = [backend.tokens(pixels).astype(np.float64) for backend in backends]
    if len({array.shape for array in tokens}) > 1 or len({backend.num_prefix for backend in backends}) > 1:
        shapes = ", ".join(f"{one.name} {array.shape}" for one, array in zip(backends, tokens, strict=True))
        raise ConfigError(
            f"the encoders give tokens of other shapes: {shapes}", remedy="compare one encoder's backends"
        )
    pairs = []
    for (one, first), (other, second) in combinations(zip(backends, tokens, strict=True), 2):
        pairs.append(_pair(one, first, other, second, tolerance))
    return ParityReport(tuple(pairs), tuple(pixels.shape))


def _backend(encoder: Encoder | EqxEncoder | Path | str, taken: list[str]) -> _Backend:
    if isinstance(encoder, (str, Path)):
        encoder = build_onnx_encoder(str(encoder).removeprefix("onnx:"))
    if isinstance(encoder, Encoder):
        precision = encoder.file.metadata.get("precision", "fp32") if isinstance(encoder, OnnxEncoder) else "fp32"
        kind, config = ("onnx" if isinstance(encoder, OnnxEncoder) else "torch"), encoder.config

        def tokens(pixels: np.ndarray, encoder: Encoder = encoder) -> np.ndarray:
            with torch.inference_mode():
                given = torch.from_numpy(pixels).to(encoder.device)
                array: np.ndarray = encoder.tokens(given).float().cpu().numpy()
            return array
    else:
        precision, kind, config = "fp32", "eqx", encoder.config

        def tokens(pixels: np.ndarray, encoder: EqxEncoder = encoder) -> np.ndarray:  # type: ignore[misc] # the other kind's
            return np.asarray(compiled_tokens(encoder, jnp.asarray(pixels)))

    count = sum(name.rstrip("0123456789") == kind for name in taken)
    name = kind if not count else f"{kind}{count + 1}"
    return _Backend(name, precision, 1 + config.num_storage_tokens, tokens)


def _pair(one: _Backend, first: np.ndarray, other: _Backend, second: np.ndarray, tolerance: float) -> PairDrift:
    prefix = one.num_prefix
    patches = _drift(first[:, prefix:], second[:, prefix:])
    kinds = {
        "cls": _drift(first[:, :1], second[:, :1]),
        "pooled": _drift(first[:, prefix:].mean(1, keepdims=True), second[:, prefix:].mean(1, keepdims=True)),
        "patches": patches,
    }
    storage = _drift(first[:, 1:prefix], second[:, 1:prefix]) if prefix > 1 else None
    every = [*kinds.values(), *([] if storage is None else [storage])]
    least = min((LEAST_COSINE[kind] for kind in (one.precision, other.precision) if kind in LEAST_COSINE), default=None)
    if least is None:
        allowed = tolerance * max(1.0, float(np.abs(first).max()))
        ok = all(drift.max_abs <= allowed for drift in every)
        expected = f"a difference of at most {allowed:.1e}"
    else:
        ok = all(drift.least_cosine >= least for drift in every)
        expected = f"a token cosine of at least {least}"
    return PairDrift(f"{one.name}-{other.name}", **kinds, storage=storage, ok=bool(ok), expected=expected)


def _drift(first: np.ndarray, second: np.ndarray) -> TokenDrift:
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
