"""Checks that the frozen networks give features which can be matched."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from no_time_to_train.errors import WeightsFormatError

# Relative to the largest feature: rounding in float32 between rows of one matrix product is below 1e-6.
_ALIKE = 1e-6
# In gray levels of 255, between the mean colors of two patches: far above what encoding a flat image as JPEG leaves.
_CONTRAST = 16.0


def check_features(features: Float[Tensor, "h w D"], image: UInt8[Tensor, "3 H W"], network: str) -> None:
    """Refuse features that cannot be matched: NaN, infinite, too large to normalize, or alike at all places.

    A flat image may have the same feature everywhere. Then nothing is concluded.

    Args:
        features: Features of one image on their grid.
        image: The image, RGB.
        network: Name of the network, for the message.

    Raises:
        WeightsFormatError: The features cannot be matched.
    """
    if not bool(torch.linalg.vector_norm(features.float(), dim=-1).isfinite().all()):
        raise _useless(network, "features that are NaN, infinite or too large to normalize")
    spread = (features.amax((0, 1)) - features.amin((0, 1))).amax()
    if bool(spread > _ALIKE * features.abs().amax()):
        return
    colors = F.adaptive_avg_pool2d(image.float(), (features.shape[0], features.shape[1]))
    if bool((colors.amax((1, 2)) - colors.amin((1, 2))).amax() > _CONTRAST):
        raise _useless(network, "the same feature at every place of an image that is not flat")


def _useless(network: str, what: str) -> WeightsFormatError:
    return WeightsFormatError(
        f"{network} gives {what}: its weights are damaged, or all zero, or too large",
        remedy="check the weights with ntt inspect, and fetch or export them again",
    )
