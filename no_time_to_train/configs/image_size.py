"""Which sizes in pixels an encoder takes, and the grid of patches that they give."""

import re

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.limits import shown_number
from no_time_to_train.errors import ConfigError, ImageSizeError

LONGEST_SIDE = 2**15
_MOST_DIGITS = 9


def grid_size(height: int, width: int, config: EncoderConfig) -> tuple[int, int]:
    """Return the rows and columns of patch tokens for an image of that size in pixels.

    Examples:
        >>> from no_time_to_train.configs.encoders import resolve_encoder
        >>> grid_size(64, 96, resolve_encoder("small"))
        (4, 6)
    """
    return height // config.patch_size, width // config.patch_size


def check_image_size(height: int, width: int, config: EncoderConfig) -> None:
    """Refuse a size in pixels that the encoder would crop silently.

    Raises:
        ImageSizeError: With the nearest sizes that fit.
    """
    patch = config.patch_size
    if max(height, width) > LONGEST_SIDE:
        raise ImageSizeError(
            f"{config.name} got an image of {shown_number(height)} by {shown_number(width)} pixels, expected sides of "
            f"at most {LONGEST_SIDE}",
            remedy="resize it",
        )
    if config.family == "dinov3_convnext":
        if min(height, width) < patch:
            raise ImageSizeError(
                f"{config.name} got an image of {height}x{width}, expected at least {patch}x{patch}",
                remedy=f"resize to {patch} pixels or more",
            )
    elif height % patch or width % patch or min(height, width) < patch:
        near = [max(patch, round(side / patch) * patch) for side in (height, width)]
        raise ImageSizeError(
            f"{config.name} got an image of {height}x{width}, expected multiples of its patch size {patch}",
            remedy=f"use {near[0]}x{near[1]}",
        )


def parse_image_size(text: str) -> tuple[int, int]:
    """Read a size in pixels as users write it: height x width, or one side of a square.

    Raises:
        ConfigError: It is none.

    Examples:
        >>> parse_image_size("256x384"), parse_image_size("224")
        ((256, 384), (224, 224))
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise ConfigError(f"{text!r} is not an image size", remedy="write 224 or 256x384 (height x width)")
    if max(len(side or "") for side in match.groups()) > _MOST_DIGITS:
        raise ConfigError(f"{text:.20}... is larger than any image", remedy=f"give at most {LONGEST_SIDE} a side")
    return int(match[1]), int(match[2] or match[1])


def check_img_size(img_size: int, config: EncoderConfig) -> None:
    """Refuse a side of the square input that an encoder does not take.

    Raises:
        ImageSizeError: It does not.
    """
    try:
        check_image_size(img_size, img_size, config)
    except ImageSizeError as error:
        default = f"leave img_size out for its default of {config.default_img_size}"
        raise ImageSizeError(error.message, remedy=f"{default}, or {error.remedy}") from error
