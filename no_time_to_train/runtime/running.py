"""Running ONNX files that take images."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from jaxtyping import Float

from no_time_to_train.errors import ConfigError, WeightsFormatError
from no_time_to_train.runtime.onnx_session import EXPORT_AGAIN, OnnxFile

PIXEL_VALUES = "pixel_values"


def run_images(
    file: OnnxFile,
    session: onnxruntime.InferenceSession,
    pixel_values: Float[np.ndarray, "B 3 H W"],
    outputs: Sequence[str],
) -> list[Float[np.ndarray, "B ..."]]:
    """Run a file on images. A file of a fixed batch gets as many at a time, the last ones repeated to fill it.

    Args:
        file: What was opened.
        session: As it was opened.
        pixel_values: RGB, normalized, float32.
        outputs: Names of what to return.

    Raises:
        ConfigError: There is no image.
        WeightsFormatError: ONNX Runtime fails.
    """
    if not len(pixel_values):
        raise ConfigError("a batch of no images cannot be encoded", remedy="give at least one")
    pixels = np.ascontiguousarray(pixel_values, dtype=np.float32)
    batch = file.batch_size or len(pixels)
    parts = []
    for begin in range(0, len(pixels), batch):
        part = pixels[begin : begin + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)]) if len(part) < batch else part
        parts.append([output[: len(part)] for output in run(file, session, {PIXEL_VALUES: filled}, outputs)])
    return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]


def run(
    file: OnnxFile, session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], outputs: Sequence[str]
) -> list[np.ndarray]:
    """Run a file.

    Raises:
        WeightsFormatError: ONNX Runtime fails.
    """
    try:
        found: list[np.ndarray] = session.run(list(outputs), inputs)
    except Exception as error:  # onnxruntime's errors have no common class that is public
        shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
        raise WeightsFormatError(f"{file.path} fails on {shapes}: {error}", remedy=EXPORT_AGAIN) from error
    return found
