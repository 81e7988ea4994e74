"""The images that backends are compared on: photographs of the user's, or noise with the statistics of photographs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image

from no_time_to_train.export.verify import natural_noise, normalise


class PixelStatistics(Protocol):
    """What images were normalised by in training, such as an `EncoderConfig`."""

    @property
    def image_mean(self) -> tuple[float, float, float]:
        """Of each channel."""

    @property
    def image_std(self) -> tuple[float, float, float]:
        """Of each channel."""


def preprocess_images(
    images: Sequence[Image.Image], size: tuple[int, int], config: PixelStatistics
) -> Float[np.ndarray, "B 3 H W"]:
    """Bring images to a size and normalise them, as transformers' processor does: bilinear, antialiased, in float32.

    Args:
        images: RGB, of any sizes.
        size: Height and width in pixels.
        config: Whose mean and standard deviation are taken.
    """
    resized = []
    for image in images:
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
        resized.append(F.interpolate(pixels, size=size, mode="bilinear", antialias=True))
    return normalise(torch.cat(resized).numpy(), config.image_mean, config.image_std)


def make_noise(count: int, size: tuple[int, int], config: PixelStatistics) -> Float[np.ndarray, "B 3 H W"]:
    """Draw normalised noise with the statistics of photographs; the same at each call."""
    return normalise(natural_noise((count, 3, *size), seed=0), config.image_mean, config.image_std)


def denormalised(pixels: Float[np.ndarray, "3 H W"], config: PixelStatistics) -> Float[np.ndarray, "H W 3"]:
    """Return an image in [0, 1] for looking at."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (config.image_mean, config.image_std))
    image: np.ndarray = np.clip(pixels * std + mean, 0, 1).transpose(1, 2, 0)
    return image
