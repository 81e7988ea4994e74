"""Checks that the frozen networks give features which can be matched."""

import numpy as np
from jaxtyping import Float, UInt8

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.matching.array_ops import Array, array_namespace, as_float, to_numpy
from no_time_to_train.matching.interpolation import window_means

# Relative to the largest feature: rounding in float32 between rows of one matrix product is below 1e-6.
_ALIKE = 1e-6
# In gray levels of 255, between the mean colors of two patches: far above what encoding a flat image as JPEG leaves.
_CONTRAST = 16.0


def check_features(features: Float[Array, "h w D"], image: UInt8[Array, "3 H W"], network: str) -> None:
    """Refuse features that cannot be matched: NaN, infinite, too large to normalize, or alike at all places.

    A flat image may have the same feature everywhere. Then nothing is concluded.

    Args:
        features: Features of one image on their grid.
        image: The image, RGB.
        network: Name of the network, for the message.

    Raises:
        WeightsFormatError: The features cannot be matched.
    """
    xp = array_namespace(features)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = xp.linalg.vector_norm(as_float(features), axis=-1)
    if not bool(xp.all(xp.isfinite(lengths))):
        raise _useless(network, "features that are NaN, infinite or too large to normalize")
    spread = xp.max(xp.max(features, axis=(0, 1)) - xp.min(features, axis=(0, 1)))
    if bool(spread > _ALIKE * xp.max(xp.abs(features))):
        return
    colors = window_means(to_numpy(image), (features.shape[0], features.shape[1]))
    if (colors.max(axis=(1, 2)) - colors.min(axis=(1, 2))).max() > _CONTRAST:
        raise _useless(network, "the same feature at every place of an image that is not flat")


def _useless(network: str, what: str) -> WeightsFormatError:
    return WeightsFormatError(
        f"{network} gives {what}: its weights are damaged, or all zero, or too large",
        remedy="check the weights with ntt inspect, and fetch or export them again",
    )
