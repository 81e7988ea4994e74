from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from no_time_to_train.models.dinov3_utils import IMAGENET_MEAN, IMAGENET_STD
from no_time_to_train.models.encoder import FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.models.preprocessing import encoder_pixels, encoder_size, mask_on_grid, reference_window
from tests.conftest import DATA


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return build_encoder_from_checkpoint(DATA / "golden" / "vit_mlp_released.pth", img_size=64)


def test_pixels_are_resized_in_float_clamped_and_normalised(encoder: FeatureEncoder) -> None:
    image = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8)
    pixels = encoder_pixels(image, encoder)
    assert pixels.shape == (1, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    back = pixels[0] * std + mean
    assert back.min() >= -1e-6
    assert back.max() <= 1 + 1e-6
    resized = F.interpolate(image[None].float() / 255, size=(64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(back, resized[0])


def test_one_colour_stays_that_colour(encoder: FeatureEncoder) -> None:
    image = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None].expand(3, 17, 23)
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    got = encoder_pixels(image, encoder)
    torch.testing.assert_close(got, expected[None, :, None, None].expand_as(got))


@pytest.mark.parametrize(
    ("size", "expected"), [((48, 64), (48, 64)), ((30, 300), (16, 64)), ((64, 48), (64, 48)), ((1, 1), (64, 64))]
)
def test_ratio_is_kept_to_the_patch(encoder: FeatureEncoder, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert encoder_size(*size, encoder, "keep_ratio") == expected
    assert encoder_size(*size, encoder, "stretch") == (64, 64)


def test_window_is_the_published_square() -> None:
    # The longer side is 40, times 1.2 is 48, around the centre (50, 50).
    assert reference_window((30.0, 40.0, 40.0, 20.0), 200, 200, 1.2) == (26, 26, 74, 74)
    assert reference_window((0.0, 0.0, 40.0, 20.0), 30, 50, 1.2) == (0, 0, 44, 30)


@given(
    box=st.tuples(*(st.floats(-50, 300, width=32) for _ in range(2)), *(st.floats(0, 300, width=32) for _ in range(2))),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    scale=st.floats(1, 3),
)
def test_window_is_within_the_image_and_holds_the_box(
    box: tuple[float, float, float, float], height: int, width: int, scale: float
) -> None:
    x1, y1, x2, y2 = reference_window(box, height, width, scale)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    x, y, box_width, box_height = box
    if 0 <= x and x + box_width <= width and 0 <= y and y + box_height <= height:
        # Half a pixel of rounding at the most.
        assert x1 <= x + 1
        assert x2 >= x + box_width - 1
        assert y1 <= y + 1
        assert y2 >= y + box_height - 1


def test_mask_takes_the_nearest_pixel() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, 4:] = True
    assert mask_on_grid(mask, (2, 2)).tolist() == [[False, True], [False, False]]


def test_an_object_between_the_nearest_pixels_keeps_its_patches() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[33, 47] = True
    grid = mask_on_grid(mask, (4, 4))
    assert grid.nonzero().tolist() == [[2, 2]]


def test_an_empty_mask_stays_empty(tmp_path: Path) -> None:
    assert not mask_on_grid(torch.zeros(9, 7, dtype=torch.bool), (4, 4)).any()
