"""Reading photographs and mask images with Pillow, whatever their mode, the right way up."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from no_time_to_train.errors import ImageReadError

# Modes whose pixels are indices, or are multiplied by alpha: only over RGBA do they become the colours that were meant.
_THROUGH_RGBA = ("P", "PA", "RGBa")
# EXIF orientations by which rows are seen as columns.
_TURNED = (5, 6, 7, 8)
_COLOUR_CHANNELS = {"L": 1, "LA": 1, "La": 1, "P": 1, "PA": 1, "RGB": 3, "RGBA": 3, "RGBa": 3, "RGBX": 3}


def load_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB.

    Grey is repeated, palettes are looked up, alpha is dropped (the colours beneath stay), CMYK is converted, and
    16-bit grey is scaled by its 16-bit range: 65535 becomes 255. Of several frames, the first is read.

    Args:
        path: The image file, in any format that Pillow reads.

    Returns:
        The image in mode ``RGB``, height H and width W as seen: the EXIF orientation is applied.

    Raises:
        ImageReadError: The file is missing, a folder, no image, cut off, or larger than Pillow's limit on pixels; or
            its pixels have no 8-bit or 16-bit range, as in float images.
    """
    return _checked_rgb(_read(path), path)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Make an image that is read already 8-bit RGB, as `load_image` does, the right way up.

    Args:
        image: In any mode.
        name: What to call it in errors.

    Raises:
        ImageReadError: It cannot be decoded, or has no 8-bit or 16-bit range.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever their parsers run into.
        raise ImageReadError(f"{name} cannot be decoded: {error}", remedy="check where it comes from") from error
    return _checked_rgb(_upright(image), name)


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels of an image as `load_image` gives it, from its header where that will do.

    Raises:
        ImageReadError: As for `load_image`.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="error"), Image.open(file) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return (image.height, image.width) if orientation in _TURNED else image.size
    except (OSError, ValueError, SyntaxError, Warning):
        # Whatever is the matter with it, reading it whole will tell.
        return load_image(path).size


def load_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """Read a mask image: every pixel that is not zero is foreground.

    In palette images the index counts, as in the masks of PASCAL VOC and DAVIS; alpha does not count.

    Args:
        path: The image file, in any format that Pillow reads. JPEG blurs the edges of a mask; PNG does not.

    Returns:
        The mask, bool, height H and width W as seen: the EXIF orientation is applied.

    Raises:
        ImageReadError: As for `load_image`, except that float images are read.
    """
    image = _read(path)
    if image.mode not in _COLOUR_CHANNELS and not image.mode.startswith(("1", "I", "F")):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.asarray(pixels != 0)
    return np.asarray(pixels[..., : _COLOUR_CHANNELS[image.mode]].any(axis=-1))


def _read(path: Path) -> Image.Image:
    """Decode the whole file, or say why not."""
    if path.is_dir():
        raise ImageReadError(f"{path} is a folder, expected an image file", remedy="name the image itself")
    if not path.is_file():
        raise ImageReadError(f"no image at {path}", remedy="check the path, and the folder that file names are under")
    try:
        # A handle rather than the path: given the path, Pillow 13 maps raw TIFF files into memory and mixes up
        # height and width where they are rotated.
        with warnings.catch_warnings(), path.open("rb") as handle:
            # Pillow only warns up to twice its limit. Here the limit is the limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(handle) as image:
                image.load()
                return _upright(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{path} has more pixels than is safe to decode: {error}",
            remedy="make the image smaller or cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS",
        ) from error
    except UnidentifiedImageError as error:
        raise ImageReadError(
            f"{path} is no image that Pillow can read", remedy="check the file, or save it as JPEG or PNG"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers run into, SyntaxError included.
        raise ImageReadError(
            f"{path} is broken or cut off: {error or type(error).__name__}",
            remedy="fetch the file again, it may have been cut off while it was copied",
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # The pixels are whole; EXIF that cannot be parsed names no orientation.
        return image.copy()


def _checked_rgb(image: Image.Image, name: Path | str) -> Image.Image:
    try:
        return _to_rgb(image, name)
    except (ValueError, OSError) as error:
        raise ImageReadError(
            f"{name} has mode {image.mode}, which cannot be made RGB: {error}", remedy="save it as an RGB image"
        ) from error


def _to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode == "F":
        raise ImageReadError(
            f"{path} holds float pixels, whose range is not known, expected 8 or 16 bits a channel",
            remedy="scale it to 8 bits and save it as PNG",
        )
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image, path)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in _THROUGH_RGBA:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    # Mode I has 32 bits, but Pillow gives it to 16-bit PGM and to some 16-bit PNG files as well.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageReadError(
            f"{path} holds values from {values.min()} to {values.max()}, expected 0 to 65535 in a grey image",
            remedy="scale it to 8 bits and save it as PNG",
        )
    # 65535 / 255 is 257; half of it is added so that the division rounds.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
