"""An exported file against the Equinox model that it was made from, on images of real statistics."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.errors import ExportError
from no_time_to_train.jax_models.load import EqxEncoder
from no_time_to_train.runtime.onnx_session import OnnxFile, open_session

# In units of the largest feature, where that is above 1. Measured noise of fp32 is below 1.2e-5 (two backends, depth
# 12) and grows with the depth; the mildest mistake known, GELU's tanh form, costs 6e-4.
FP32_DRIFT = 1e-4
# Of the worst token, for files that are less precise.
LEAST_COSINE = {"fp16": 0.9999, "int8": 0.99}


@dataclass(frozen=True)
class Drift:
    """How far a file's tokens are from the Equinox model's.

    Attributes:
        largest: The largest difference of a number, in units of the largest feature where that is above 1.
        least_cosine: Of the worst token.
        mean_cosine: Over all tokens.
        shapes: Of the images that were tried.
    """

    largest: float
    least_cosine: float
    mean_cosine: float
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{batch} of {height}x{width}" for batch, _, height, width in self.shapes)
        return (
            f"largest difference {self.largest:.1e}, token cosine at least {self.least_cosine:.6f}, "
            f"on average {self.mean_cosine:.6f} (images: {sizes})"
        )

    def as_json(self) -> str:
        """Return it as a file's metadata hold it."""
        return json.dumps(
            {
                "largest_difference": self.largest,
                "least_token_cosine": self.least_cosine,
                "mean_token_cosine": self.mean_cosine,
                "shapes": self.shapes,
            }
        )


def measure_drift(file: OnnxFile, model: EqxEncoder, shapes: Sequence[tuple[int, int, int, int]]) -> Drift:
    """Compare what a file and a model say to the same images.

    Args:
        file: The file.
        model: What it was made from, in float32.
        shapes: Of the images: (batch, 3, height, width).

    Raises:
        WeightsFormatError: onnxruntime refuses the file.
        ExportError: It gives other shapes than it should, or what is not a number.
    """
    session = open_session(file)
    pairs = []
    for seed, shape in enumerate(shapes):
        images = natural_noise(shape, seed=seed)
        pixels = normalised(images, model.config)
        expected = np.asarray(compiled_tokens(model, jnp.asarray(pixels)))
        states, pooled = session.run(None, {"pixel_values": pixels})
        pairs += [(expected, states), (expected[:, :1], pooled[:, None])]
    return drift_between(pairs, shapes)


def drift_between(
    pairs: Iterable[tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]],
    shapes: Sequence[tuple[int, int, int, int]],
) -> Drift:
    """Measure how far arrays of tokens, the last axis a token's, are from what they should be.

    Args:
        pairs: What was expected, and what was found.
        shapes: Of the images that they are of.

    Raises:
        ExportError: They have other shapes than they should.
    """
    largest, cosines = 0.0, []
    for wanted, got in pairs:
        expected, found = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
        if found.shape != expected.shape:
            raise ExportError(
                f"the file gives {found.shape}, expected {expected.shape}", remedy="report this: ntt export --debug"
            )
        difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
        largest = float(np.maximum(largest, difference))  # keeps NaN
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # `check_drift` tells of tokens that are zero
            cosines.append(((found * expected).sum(-1) / norms).ravel())
    every = np.concatenate(cosines)
    return Drift(largest, float(every.min()), float(every.mean()), tuple(shapes))


# Compiled once for all checkpoints of an architecture.
@eqx.filter_jit
def compiled_tokens(model: EqxEncoder, pixels: Float[Array, "B 3 H W"]) -> Float[Array, "B N D"]:
    """Encode a batch, see `tokens` of the models; on a GPU too in float32, where JAX would multiply in TF32."""
    with jax.default_matmul_precision("highest"):
        return model.tokens(pixels)


def check_drift(drift: Drift, precision: str) -> None:
    """Refuse a drift beyond what a precision may cost.

    Raises:
        ExportError: With what was measured.
    """
    if math.isnan(drift.largest):
        raise ExportError("the encoder gives NaN or Inf", remedy="ntt inspect says which of its tensors hold such")
    if math.isnan(drift.least_cosine):
        raise ExportError(
            "the encoder gives tokens of zeros, which say nothing of an image",
            remedy="check the weights with ntt inspect: all of them may be zero",
        )
    least = LEAST_COSINE.get(precision)
    fits = drift.largest <= FP32_DRIFT if least is None else drift.least_cosine >= least
    if not fits:
        wanted = f"a difference of at most {FP32_DRIFT:g}" if least is None else f"a token cosine of at least {least}"
        raise ExportError(
            f"the {precision} file drifts from the Equinox model: {drift}; expected {wanted}",
            remedy="report this" if least is None else "export it in fp32",
        )


def natural_noise(shape: tuple[int, int, int, int], *, seed: int) -> Float[np.ndarray, "B 3 H W"]:
    """Draw images with the statistics of photographs: amplitudes that fall with the frequency's power of 1.4.

    Neighbouring pixels of photographs at 96x96 correlate by 0.86 to 0.99, those of this noise by 0.94.

    Args:
        shape: Batch, 3, height and width.
        seed: Of the noise.

    Returns:
        float32 in [0, 1]; brightness varies more than colour does.
    """
    batch, channels, height, width = shape
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = np.maximum(frequency, 1 / max(height, width)) ** -1.4
    spectrum = np.fft.rfft2(random.standard_normal((batch, 1 + channels, height, width))) * amplitude
    waves = np.fft.irfft2(spectrum, s=(height, width))
    waves /= waves.std((-2, -1), keepdims=True) + 1e-12
    images = 0.45 + 0.2 * waves[:, :1] + 0.07 * waves[:, 1:]
    return np.clip(images, 0, 1).astype(np.float32)


def normalised(images: Float[np.ndarray, "B 3 H W"], config: EncoderConfig) -> Float[np.ndarray, "B 3 H W"]:
    """Normalise images in [0, 1] as the encoder was trained."""
    return normalise(images, config.image_mean, config.image_std)


def normalise(
    images: Float[np.ndarray, "B 3 H W"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "B 3 H W"]:
    """Normalise images in [0, 1] by the mean and deviation of each channel."""
    centre, scale = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    return (images - centre) / scale
