"""Images and masks in whatever a caller has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from no_time_to_train.data.inputs import as_image, as_mask
from no_time_to_train.errors import ImageReadError, ImageSizeError, MaskSizeError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def forms(tmp_path: Path) -> dict[str, Any]:
    Image.fromarray(PIXELS).save(tmp_path / "a picture.png")
    return {
        "path": tmp_path / "a picture.png",
        "text": str(tmp_path / "a picture.png"),
        "pillow": Image.fromarray(PIXELS),
        "array": PIXELS,
        "strided array": np.asfortranarray(PIXELS),
        "read-only array": np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
        "floats": PIXELS.astype(np.float64) / 255,
        "with alpha": np.concatenate([PIXELS, np.zeros((5, 7, 1), np.uint8)], axis=2),
        "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
        "float tensor": torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
    }


FORMS = [
    *("path", "text", "pillow", "array", "strided array", "read-only array"),
    *("floats", "with alpha", "tensor", "float tensor"),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_image(form: str, tmp_path: Path) -> None:
    image = as_image(forms(tmp_path)[form])
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.array_equal(image, PIXELS)


def test_grey_is_repeated() -> None:
    grey = torch.from_numpy(PIXELS[..., 0].copy())
    for form in (grey.numpy(), grey[None], Image.fromarray(grey.numpy())):
        assert np.array_equal(as_image(form), PIXELS[..., :1].repeat(3, axis=2))


def test_pillow_images_stand_upright() -> None:
    turned = Image.fromarray(PIXELS)
    turned.getexif()[ExifTags.Base.Orientation] = 6
    assert as_image(turned).shape == (7, 5, 3)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros((4, 4, 2), np.uint8), ImageSizeError),
        (np.zeros((4,), np.uint8), ImageSizeError),
        (np.zeros((0, 4, 3), np.uint8), ImageSizeError),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ImageSizeError),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ImageSizeError),
        (np.full((4, 4, 3), 255.0), ImageReadError),
        (np.full((4, 4, 3), -0.1), ImageReadError),
        (np.full((4, 4, 3), np.nan), ImageReadError),
        (np.zeros((4, 4, 3), np.int32), ImageReadError),
        (np.zeros((4, 4, 3), bool), ImageReadError),
        ("nowhere.png", ImageReadError),
        ([[1], [2, 3]], ImageReadError),
        (torch.zeros(3, 4, 4, device="meta"), ImageReadError),
        (torch.eye(4)[None].to_sparse(), ImageReadError),
    ],
)
def test_what_is_no_image_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        as_image(value)


def test_every_form_is_the_same_mask(tmp_path: Path) -> None:
    mask = PIXELS[..., 0] > 100
    Image.fromarray(mask).save(tmp_path / "mask.png")
    forms: list[Any] = [
        tmp_path / "mask.png",
        Image.fromarray(mask),
        Image.fromarray(mask.astype(np.uint8) * 7),
        mask,
        mask.astype(np.float32),
        torch.from_numpy(mask),
        torch.from_numpy(mask).int(),
        torch.from_numpy(mask).to(torch.bfloat16),
        mask.astype(np.uint32),
        mask.astype(">i4"),
        mask.tolist(),
    ]
    for form in forms:
        assert np.array_equal(as_mask(form, (5, 7)), mask)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I", "I;16", "F"])
def test_masks_of_pillow_are_those_of_their_files(mode: str, tmp_path: Path) -> None:
    mask = np.eye(5, 7, dtype=bool)
    values = mask.astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}.get(mode, np.uint8))
    image = Image.fromarray(values * 255 if mode in ("1", "LA", "RGB", "RGBA") else values)
    if mode == "P":
        # White is index 0, the background; black is the object.
        image.putpalette([255] * 3 + [0] * 765)
    elif image.mode != mode:
        image = image.convert(mode)
    path = tmp_path / "mask.tif"
    image.save(path)
    assert image.mode == mode
    assert np.array_equal(as_mask(image, (5, 7)), mask)
    assert np.array_equal(as_mask(path, (5, 7)), mask)
    quarter = Image.fromarray(mask.astype(np.float32) / 4)
    assert np.array_equal(as_mask(quarter, (5, 7)), mask)


def test_files_of_probabilities_are_no_mask(tmp_path: Path) -> None:
    image = Image.fromarray(np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7))
    image.save(tmp_path / "mask.tif")
    for value in (image, tmp_path / "mask.tif"):
        with pytest.raises(ImageReadError, match=r"mask.* of floats from 0 to 1"):
            as_mask(value, (5, 7))


@pytest.mark.parametrize("value", [np.linspace(0, 1, 35).reshape(5, 7), torch.randn(5, 7), np.full((5, 7), np.nan)])
def test_probabilities_are_no_mask(value: Any) -> None:
    with pytest.raises(ImageReadError, match=r"mask > 0.5 of probabilities"):
        as_mask(value, (5, 7))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((5, 7), "a"), "a mask of <U1, expected booleans"),
        (np.full((5, 7), None), "a mask of object, expected booleans"),
        (np.zeros((5, 7), complex), "a mask of complex128"),
        ([[1], [2, 3]], "a mask of type list cannot be read"),
        (torch.zeros(5, 7, device="meta"), "a mask of type Tensor cannot be read"),
        (torch.eye(5, 7).to_sparse(), "a mask of type Tensor cannot be read"),
    ],
)
def test_what_is_no_mask_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ImageReadError, match=message):
        as_mask(value, (5, 7))


def test_sixteen_bit_floats_of_torch_are_taken() -> None:
    pixels = torch.tensor([0.0, 1.0]).repeat(3, 2, 1)
    for kind in (torch.float16, torch.bfloat16):
        assert np.array_equal(as_image(pixels.to(kind)), np.array([[[0] * 3, [255] * 3]] * 2))


@pytest.mark.parametrize("value", [np.zeros((7, 5)), np.zeros((5, 7, 3)), torch.zeros(1, 5, 7)])
def test_masks_of_another_size_are_refused(value: Any) -> None:
    with pytest.raises(MaskSizeError, match="5x7"):
        as_mask(value, (5, 7))
