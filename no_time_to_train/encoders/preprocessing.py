"""Bringing images to the encoder: resize and normalize. Images are torch tensors or NumPy arrays."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.pipeline import ResizePolicy
from no_time_to_train.matching.array_ops import Array, array_namespace, as_like, is_numpy

# Takes an image (RGB), a height and a width, and a device; gives pixels before their normalization.
Resize: TypeAlias = Callable[[UInt8[Array, "3 H0 W0"], tuple[int, int], Any], Float[Array, "1 3 H W"]]


@runtime_checkable
class EncoderInput(Protocol):
    """The properties of an encoder that decide how its images are prepared."""

    config: EncoderConfig
    img_size: int

    @property
    def patch_size(self) -> int:
        """Pixels that a patch token covers on a side."""

    @property
    def image_mean(self) -> tuple[float, float, float]:
        """Mean per channel (R, G, B), for pixels in [0, 1]."""

    @property
    def image_std(self) -> tuple[float, float, float]:
        """Standard deviation per channel (R, G, B), for pixels in [0, 1]."""

    @property
    def device(self) -> Any:
        """The device of the pixels: a `torch.device`, or `cpu` for NumPy arrays."""


def image_tensor(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[Array, "3 H W"]:
    """Return an image with its channels first, as a tensor of torch."""
    import torch

    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def resize_bicubic(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any) -> Float[Array, "1 3 H W"]:
    """Scale to [0, 1] and resize in float: bicubic, antialiased, clamped to [0, 1]."""
    # Bicubic overshoots at edges; pixels outside [0, 1] are none that the encoder has seen.
    return _resized(image, size, device, "bicubic").clip(0, 1)


def resize_bilinear(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any) -> Float[Array, "1 3 H W"]:
    """Scale to [0, 1] and resize in float: bilinear, antialiased, as Meta's `SAM2Transforms` does."""
    return _resized(image, size, device, "bilinear")


def _resized(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any, mode: str) -> Float[Array, "1 3 H W"]:
    if is_numpy(image):
        # Pillow's kernels, on which torch's antialiased ones are modeled; in mode F without rounding to 8 bits.
        method = Image.Resampling[mode.upper()]
        channels = (Image.fromarray(channel).resize(size[::-1], method) for channel in image.astype(np.float32) / 255)
        return np.stack([np.asarray(channel) for channel in channels])[None]
    import torch.nn.functional as F

    return F.interpolate(image.to(device)[None].float() / 255, size=size, mode=mode, antialias=True)


def normalize_pixels(
    pixels: Float[Array, "B 3 H W"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Array, "B 3 H W"]:
    """Subtract each channel's mean, and divide by its standard deviation."""
    xp = array_namespace(pixels)
    by_channel = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    means, deviations = (xp.astype(as_like(values, pixels), pixels.dtype) for values in by_channel)
    return (pixels - means) / deviations


def encoder_pixels(
    image: UInt8[Array, "3 H0 W0"],
    encoder: EncoderInput,
    policy: ResizePolicy = "stretch",
    resize: Resize = resize_bicubic,
) -> Float[Array, "1 3 H W"]:
    """Resize an image, and normalize it as the encoder was trained.

    Args:
        image: RGB.
        encoder: Decides the size and the normalization.
        policy: `stretch` to the square of the encoder's `img_size`, or `keep_ratio`.
        resize: How it is resized.
    """
    size = encoder_size(image.shape[1], image.shape[2], encoder, policy)
    return normalize_pixels(resize(image, size, encoder.device), encoder.image_mean, encoder.image_std)


def encoder_size(height: int, width: int, encoder: EncoderInput, policy: ResizePolicy) -> tuple[int, int]:
    """Return the height and width in pixels at which an image of that size is encoded."""
    if policy == "stretch":
        return encoder.img_size, encoder.img_size
    patch, scale = encoder.patch_size, encoder.img_size / max(height, width)
    return tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))  # type: ignore[return-value] # of two
