"""HEIC and AVIF, as telephones write them."""

from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from jaxtyping import UInt8
from PIL import Image

from no_time_to_train.data.images import image_size, load_image, load_stamped_image
from no_time_to_train.errors import ImageReadError

# A red corner on blue says which way is up. HEIC blurs colors at edges, so that means of areas are compared.
PICTURE = np.zeros((32, 64, 3), dtype=np.uint8)
PICTURE[..., 2] = 255
PICTURE[:16, :32] = (255, 0, 0)
# Mean difference of the lossy formats at the quality that is used here: measured 2.3 of 255.
TOLERANCE = 5


def upright(orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    return {1: PICTURE, 3: np.rot90(PICTURE, 2), 6: np.rot90(PICTURE, -1), 8: np.rot90(PICTURE)}[orientation]


def saved(path: Path, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".avif":
        Image.fromarray(PICTURE).save(path, exif=exif, quality=90)
    else:
        pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(path, exif=exif.tobytes(), quality=90)
    return path


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "IMG_1.jpg", "photo.avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_right_way_up_once(tmp_path: Path, name: str, orientation: int) -> None:
    """What the file holds counts, not its ending."""
    path, expected = saved(tmp_path / name, orientation), upright(orientation)
    for image in (load_image(path), load_stamped_image(path)[0]):
        assert image.mode == "RGB"
        assert image.size == expected.shape[1::-1]
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < TOLERANCE
    assert image_size(path) == expected.shape[1::-1]


@pytest.mark.parametrize("ending", [".heic", ".avif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_that_is_cut_off_is_named(tmp_path: Path, ending: str, share: float) -> None:
    path = saved(tmp_path / f"a{ending}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageReadError, match=rf"a\{ending} is (broken or cut off|not an image)"):
        load_image(path)
