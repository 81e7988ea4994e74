"""Draw features as colors, and pictures next to each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from no_time_to_train.io.atomic import atomic_path

_GAP = 8


class ColorBasis(NamedTuple):
    """Map from features to colors.

    Attributes:
        mean: Of the features.
        directions: The leading principal components.
        low: Of the features along each direction, the 2nd percentile, which gets 0.
        high: The 98th percentile, which gets 255.
    """

    mean: Float[np.ndarray, " D"]
    directions: Float[np.ndarray, "3 D"]
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]


def pca_basis(features: Float[np.ndarray, "N D"]) -> ColorBasis:
    """Find the three leading principal components of features, for `pca_colors`."""
    mean = features.mean(axis=0)
    _, _, directions = np.linalg.svd(features - mean, full_matrices=False)
    # Fewer than three patches have fewer directions.
    leading = np.zeros((3, features.shape[1]), features.dtype)
    leading[: len(directions)] = directions[:3]
    # A few outlying patches would leave the others gray.
    low, high = np.quantile((features - mean) @ leading.T, [0.02, 0.98], axis=0)
    return ColorBasis(mean, leading, low, high)


def pca_colors(features: Float[np.ndarray, "... D"], basis: ColorBasis) -> UInt8[np.ndarray, "... 3"]:
    """Color features by three principal components."""
    projected = (features - basis.mean) @ basis.directions.T
    scaled = (projected - basis.low) / np.maximum(basis.high - basis.low, 1e-6)
    return np.asarray(np.rint(scaled.clip(0, 1) * 255), np.uint8)


def save_panels(panels: Sequence[UInt8[np.ndarray, "H W 3"]], path: Path) -> None:
    """Write pictures of one height, next to each other, as a PNG file."""
    height = panels[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, dtype=np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(row, axis=1)).save(temporary)
