import contextlib
import errno
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from no_time_to_train.data.images import image_size, load_image, load_mask, load_stamped_image
from no_time_to_train.errors import ImageReadError
from tests.bad_inputs.table import permissions_bind

HEIGHT, WIDTH = 4, 6
GREY = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 11).astype(np.uint8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
REPEATED = np.repeat(GREY[..., None], 3, axis=-1)


def pixels(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def stored_mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_grey_is_repeated(tmp_path: Path) -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(GREY), tmp_path / "a.png")), REPEATED)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    path = saved(Image.fromarray(GREY > 100), tmp_path / "a.png")
    assert stored_mode(path) == "1"
    assert np.array_equal(pixels(path), np.where(GREY[..., None] > 100, 255, 0).repeat(3, axis=-1))


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
def test_palettes_are_looked_up_with_and_without_transparency(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.arange(24).reshape(HEIGHT, WIDTH).astype(np.uint8) % 3)
    palette = Image.new("P", (WIDTH, HEIGHT))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.frombytes(image.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(palette, tmp_path / "a.png", **options)
    assert stored_mode(path) == "P"
    assert np.array_equal(pixels(path), np.eye(3, dtype=np.uint8)[np.asarray(image)] * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_not_blended(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR if mode == "RGBA" else GREY)
    image.putalpha(Image.fromarray(GREY))
    path = saved(image, tmp_path / "a.png")
    assert stored_mode(path) == mode
    assert np.array_equal(pixels(path), COLOUR if mode == "RGBA" else REPEATED)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert stored_mode(path) == "CMYK"
    assert np.abs(pixels(path).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces_are_converted(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    loaded = pixels(saved(image, tmp_path / "a.tif")).astype(int)
    assert loaded.shape == COLOUR.shape
    assert np.median(np.abs(loaded - COLOUR)) <= 8


@pytest.mark.parametrize(
    ("dtype", "suffix", "mode"),
    [("<u2", "png", "I;16"), ("<u2", "tif", "I;16"), (">u2", "tif", "I;16B"), ("<u2", "pgm", "I")],
)
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, dtype: str, suffix: str, mode: str) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], dtype=dtype)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert stored_mode(path) == mode
    assert pixels(path)[..., 0].tolist() == [[0, 0, 1, 1], [128, 254, 255, 255]]


def test_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    floats = saved(Image.fromarray(GREY.astype(np.float32)), tmp_path / "f.tif")
    with pytest.raises(ImageReadError, match=r"f\.tif holds float pixels.*scale it to 8 bits"):
        load_image(floats)
    integers = saved(Image.fromarray(GREY.astype(np.int32) - 1), tmp_path / "i.tif")
    with pytest.raises(ImageReadError, match=r"from -1 to 252, expected 0 to 65535"):
        load_image(integers)


@pytest.mark.parametrize(
    ("kind", "bits"), [("jpg", 8), ("png", 8), ("raw.tif", 8), ("lzw.tif", 8), ("png", 16), ("raw.tif", 16)]
)
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, bits: int) -> None:
    values = GREY if bits == 8 else GREY.astype(np.uint16) * 257
    options: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "lzw.tif" else {}
    path = saved(Image.fromarray(values), tmp_path / f"a.{kind}", exif=rotated(6), **options)
    loaded = pixels(path)
    assert loaded.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(loaded.astype(int) - np.rot90(REPEATED, -1)).max() <= (8 if kind == "jpg" else 0)
    assert load_mask(path).shape == (WIDTH, HEIGHT)


def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.png", exif=b"Exif\x00\x00no exif at all")
    assert np.array_equal(pixels(path), COLOUR)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"no image at .*gone\.png \(check the path"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageReadError, match="is a folder, expected an image file"):
        load_mask(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"a\.png is (not an image|broken)"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageReadError, match=r"is broken or cut off: .*fetch the file again"):
        load_image(path)


def test_an_image_that_may_not_be_read_is_not_said_to_be_broken(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.png")
    path.chmod(0)
    with permissions_bind():
        for read in (load_image, image_size, load_mask, load_stamped_image):
            with pytest.raises(
                ImageReadError, match=r"a\.png cannot be read: Permission denied \(check its permissions"
            ):
                read(path)


def test_an_error_of_the_disk_is_not_said_to_be_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.png")

    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("no_time_to_train.data.images.open_regular", lambda path: FailingDisk())
    with pytest.raises(ImageReadError, match=r"a\.png cannot be read: Input/output error \(check the disk"):
        load_image(path)


def test_libraries_do_not_warn_of_cut_tiffs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / "a.tif", compression="jpeg")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.99)])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageReadError, match=r"a\.tif is broken or cut off"):
            load_image(path)
    assert not seen


def test_a_stamp_is_of_the_content_that_was_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written to while it is read is read again, and in the end refused."""
    path = saved(Image.fromarray(COLOUR), tmp_path / "a.png")
    image, stamp = load_stamped_image(path)
    assert np.array_equal(np.asarray(image), COLOUR)
    assert stamp.same_content(path)
    left, decode = 2, PngImageFile.load

    def written_meanwhile(self: PngImageFile) -> object:
        nonlocal left
        pixel = decode(self)
        if left:
            left -= 1
            with path.open("ab") as stream:
                stream.write(b"more")
        return pixel

    monkeypatch.setattr(PngImageFile, "load", written_meanwhile)
    image, stamp = load_stamped_image(path)
    assert left == 0
    assert stamp.same_content(path)
    left = 3
    with pytest.raises(ImageReadError, match=r"a\.png changed each of the 3 times .* \(wait until it is written"):
        load_stamped_image(path)


@pytest.mark.parametrize("limit", [HEIGHT * WIDTH - 1, HEIGHT * WIDTH // 2 - 1])
def test_decompression_bombs_are_refused_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageReadError, match=r"more pixels than is safe.*MAX_IMAGE_PIXELS"):
        load_image(path)


@pytest.mark.filterwarnings("ignore")  # Pillow also warns about what is broken; outside of tests it may.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP"]), st.data())
def test_corrupted_files_raise_nothing_else(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzzed"
    path.write_bytes(content)
    for load in (load_image, load_mask):
        with contextlib.suppress(ImageReadError):
            load(path)


FOREGROUND = GREY > 100


def mask_of(image: Image.Image, path: Path) -> Bool[np.ndarray, "H W"]:
    mask = load_mask(saved(image, path))
    assert mask.dtype == bool
    return mask


@pytest.mark.parametrize("value", [1, 128, 255])
def test_any_value_but_zero_is_foreground(tmp_path: Path, value: int) -> None:
    values = np.where(FOREGROUND, value, 0)
    for number, dtype in enumerate((np.uint8, np.uint16, np.int32, np.float32)):
        assert np.array_equal(mask_of(Image.fromarray(values.astype(dtype)), tmp_path / f"{number}.tif"), FOREGROUND)
    assert np.array_equal(mask_of(Image.fromarray(FOREGROUND), tmp_path / "bits.png"), FOREGROUND)


def test_one_channel_is_enough(tmp_path: Path) -> None:
    blue = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blue[FOREGROUND, 2] = 7
    assert np.array_equal(mask_of(Image.fromarray(blue), tmp_path / "a.png"), FOREGROUND)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_black_is_background(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.where(FOREGROUND, 255, 0).astype(np.uint8)).convert(mode)
    image.putalpha(255)
    assert np.array_equal(mask_of(image, tmp_path / "a.png"), FOREGROUND)


def test_in_palettes_the_index_counts(tmp_path: Path) -> None:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putpalette([255, 255, 255, 0, 0, 0])  # Index 0 is white, index 1 is black.
    image.frombytes(FOREGROUND.astype(np.uint8).tobytes())
    assert np.array_equal(mask_of(image, tmp_path / "a.png"), FOREGROUND)


def test_colour_spaces_are_converted_before_black_is_looked_for(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(FOREGROUND, 255, 0).astype(np.uint8)).convert("RGB").convert("CMYK")
    assert np.array_equal(mask_of(image, tmp_path / "a.tif"), FOREGROUND)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_the_size_as_seen(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    Image.new("RGB", (31, 17)).save(path, exif=exif)
    assert image_size(path) == load_image(path).size
    assert (image_size(path) == (17, 31)) == (orientation >= 5)


def test_the_size_of_what_is_no_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageReadError):
        image_size(tmp_path / "x.jpg")
    with pytest.raises(ImageReadError):
        image_size(tmp_path / "nothing.jpg")
