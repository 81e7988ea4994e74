"""Reading photographs and mask images with Pillow, whatever their mode, the right way up."""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from no_time_to_train.errors import ImageReadError
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.io.paths import open_regular

# Modes whose pixels are indices, or are multiplied by alpha: only over RGBA do they become the colours that were meant.
_THROUGH_RGBA = ("P", "PA", "RGBa")
# EXIF orientations by which rows are seen as columns.
_TURNED = (5, 6, 7, 8)
_MOST_READS = 3
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


def load_stamped_image(path: Path) -> tuple[Image.Image, FileStamp]:
    """Read an image as `load_image` does, with the stamp of the very content that was decoded.

    Raises:
        ImageReadError: As for `load_image`; or the file is written to each time that it is read.
    """
    for _ in range(_MOST_READS):
        with _opened(path) as handle, _open_image(handle) as image:
            # The hash is taken before and after: in between, a program may write without a trace in size and times.
            before = FileStamp.of(handle)
            image.load()
            after = FileStamp.of(handle)
            if before.sha256 == after.sha256:
                return _checked_rgb(_upright(image), path), after
    raise ImageReadError(
        f"{path} changed each of the {_MOST_READS} times that it was read",
        remedy="wait until it is written, and run the same command again",
    )


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Make an image that is read already 8-bit RGB, as `load_image` does, the right way up.

    Args:
        image: In any mode.
        name: What to call it in errors.

    Raises:
        ImageReadError: It cannot be decoded, or has no 8-bit or 16-bit range.
    """
    return _checked_rgb(_decoded(image, name), name)


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels of an image as `load_image` gives it, from its header where that will do.

    Raises:
        ImageReadError: As for `load_image`.
    """
    try:
        with open_regular(path) as file, warnings.catch_warnings(action="error"), _open_image(file) as image:
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
        ImageReadError: As for `load_image`, except that float images of one value and 0 are read.
    """
    return _foreground_in(_read(path), f"the mask {path}")


def to_mask(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    """Take an image that is read already for a mask, as `load_mask` does, the right way up.

    Args:
        image: In any mode.
        name: What to call it in errors.

    Raises:
        ImageReadError: It cannot be decoded, or is of floats of many values.
    """
    return _foreground_in(_decoded(image, name), name)


def foreground_of(values: np.ndarray, name: str) -> Bool[np.ndarray, "H W"]:
    """Return where numbers or booleans are not zero. Probabilities and logits are refused.

    Args:
        values: Of a mask.
        name: What to call it in errors.

    Raises:
        ImageReadError: They are floats of more than one value besides 0.
    """
    foreground = np.asarray(values != 0)
    inside = values[foreground]
    if values.dtype.kind == "f" and (inside != inside[:1]).any():
        raise ImageReadError(
            f"{name} of floats from {values.min():g} to {values.max():g}, expected 0 and one other value",
            remedy="say what is foreground, such as mask > 0.5 of probabilities, mask > 0 of logits",
        )
    return foreground


def _foreground_in(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    if image.mode not in _COLOUR_CHANNELS and not image.mode.startswith(("1", "I", "F")):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return foreground_of(pixels, name)
    return np.asarray(pixels[..., : _COLOUR_CHANNELS[image.mode]].any(axis=-1))


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever their parsers run into.
        raise ImageReadError(f"{name} cannot be decoded: {error}", remedy="check where it comes from") from error
    return _upright(image)


def _read(path: Path) -> Image.Image:
    """Decode the whole file, or say why not."""
    with _opened(path) as handle, _open_image(handle) as image:
        image.load()
        return _upright(image)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open an image file, and turn whatever happens until the block ends into an error that names it.

    A handle rather than the path goes to Pillow: given the path, Pillow 13 maps raw TIFF files into memory and mixes up
    height and width where they are rotated.
    """
    try:
        handle = open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte.
        raise _cannot_open(path, error) from error
    try:
        with handle, warnings.catch_warnings():
            # What Pillow warns of, it either reads around or raises.
            warnings.simplefilter("ignore")
            # It only warns up to twice its limit. Here the limit is the limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield handle
    except ImageReadError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{path} has more pixels than is safe to decode: {error}",
            remedy="make the image smaller or cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS",
        ) from error
    except UnidentifiedImageError as error:
        raise ImageReadError(
            f"{path} is not an image that Pillow can read", remedy="check the file, or save it as JPEG or PNG"
        ) from error
    except MemoryError as error:
        raise ImageReadError(
            f"{path} does not fit in memory once it is decoded", remedy="make the image smaller or cut it into tiles"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers run into, SyntaxError included.
        if isinstance(error, OSError) and error.errno is not None:
            # The system's own: the disk fails, or the server that holds the file is gone.
            raise ImageReadError(
                f"{path} cannot be read: {error.strerror}", remedy="check the disk or the connection that it is on"
            ) from error
        raise ImageReadError(
            f"{path} is broken or cut off: {error or type(error).__name__}",
            remedy="fetch the file again, it may have been cut off while it was copied",
        ) from error


def _open_image(handle: BufferedReader) -> Image.Image:
    """Open an image with Pillow, HEIC of telephones too. Its orientation is applied as it is decoded, and is 1 then."""
    header = handle.read(8)
    handle.seek(0)
    if header[4:] == b"ftyp":  # HEIC and AVIF, whatever the file's name says
        _register_heic()
    return Image.open(handle)


@functools.cache
def _register_heic() -> None:
    import pi_heif

    pi_heif.register_heif_opener()


def _cannot_open(path: Path, error: OSError | ValueError) -> ImageReadError:
    """Return an error for what is not there, is not a file, or may not be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if path.is_symlink():
            return ImageReadError(
                f"{path} is a broken link: what it leads to is missing", remedy="correct or remove the link"
            )
        return ImageReadError(f"no image at {path}", remedy="check the path, and the folder that file names are under")
    if isinstance(error, IsADirectoryError):
        try:
            with os.scandir(path):
                pass
        except OSError as denied:
            return ImageReadError(
                f"the folder {path} cannot be opened, nor can the images in it: {denied.strerror}",
                remedy="check its permissions",
            )
        return ImageReadError(f"{path} is a folder, expected an image file", remedy="name the image itself")
    if isinstance(error, PermissionError):
        return ImageReadError(f"{path} cannot be read: {reason}", remedy="check its permissions")
    return ImageReadError(f"{path} cannot be read: {reason}", remedy="check the path and what is there")


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
