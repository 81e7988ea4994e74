import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from no_time_to_train.data.references import reference_window
from no_time_to_train.encoders.preprocessing import encoder_pixels, encoder_size
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.matching.interpolation import mask_on_grid
from no_time_to_train.models.dinov3_utils import IMAGENET_MEAN, IMAGENET_STD
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
    resized = F.interpolate(image[None].float() / 255, size=(64, 64), mode="bicubic", antialias=True)
    # Noise overshoots, so that there is something to clamp.
    assert resized.min() < 0
    assert resized.max() > 1
    torch.testing.assert_close(back, resized[0].clamp(0, 1))


def test_pixels_are_not_rounded_to_whole_values(encoder: FeatureEncoder) -> None:
    """Resizing in uint8, as Pillow and torchvision do by default, leaves 256 levels at most."""
    ramp = torch.linspace(100, 110, 16).to(torch.uint8).expand(3, 16, 16)
    assert len(set(encoder_pixels(ramp, encoder)[0, 0].flatten().tolist())) > 11


def test_pixels_keep_the_ratio_when_asked_for(encoder: FeatureEncoder) -> None:
    image = torch.randint(0, 256, (3, 30, 60), dtype=torch.uint8)
    assert encoder_pixels(image, encoder, "keep_ratio").shape == (1, 3, 32, 64)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_kept_ratio_is_the_nearest_on_the_patch_grid(encoder: FeatureEncoder, height: int, width: int) -> None:
    size = encoder_size(height, width, encoder, "keep_ratio")
    assert max(size) == 64
    for got, side in zip(size, (height, width), strict=True):
        assert got % 16 == 0
        # Half a patch of rounding, and never less than one patch.
        assert abs(got - side * 64 / max(height, width)) <= 8 or got == 16


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


BOXES = st.tuples(*(st.floats(-50, 300, width=32) for _ in range(2)), *(st.floats(0, 300, width=32) for _ in range(2)))


@given(box=BOXES, height=st.integers(1, 200), width=st.integers(1, 200), scale=st.floats(1, 3))
def test_window_is_within_the_image_and_holds_what_is_of_the_box_there(
    box: tuple[float, float, float, float], height: int, width: int, scale: float
) -> None:
    x1, y1, x2, y2 = reference_window(box, height, width, scale)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    # Of a box that overhangs, the part inside; of numbers up to 650 in double precision, all but 1e-9.
    for low, high, start, length, end in ((x1, x2, box[0], box[2], width), (y1, y2, box[1], box[3], height)):
        if start < end and start + length > 0:
            assert low <= max(start, 0) + 1e-9
            assert high >= min(start + length, end) - 1e-9


@given(box=BOXES, scale=st.floats(1, 3))
def test_window_is_square_where_no_border_cuts_it(box: tuple[float, float, float, float], scale: float) -> None:
    x, y, width, height = box
    shift = 2000
    x1, y1, x2, y2 = reference_window((x + shift, y + shift, width, height), 2 * shift + 600, 2 * shift + 600, scale)
    side = max(width, height, 1) * scale
    # Both ends are rounded outwards to whole pixels.
    assert side - 1e-9 <= min(x2 - x1, y2 - y1) <= max(x2 - x1, y2 - y1) <= side + 2
    assert abs((x2 - x1) - (y2 - y1)) <= 1
    assert abs((x1 + x2) / 2 - (x + shift + width / 2)) <= 1
    assert abs((y1 + y2) / 2 - (y + shift + height / 2)) <= 1


def test_mask_takes_the_nearest_pixel() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, 4:] = True
    assert mask_on_grid(mask, (2, 2)).tolist() == [[False, True], [False, False]]


def test_an_object_between_the_nearest_pixels_keeps_its_patches() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[33, 47] = True
    grid = mask_on_grid(mask, (4, 4))
    assert grid.nonzero().tolist() == [[2, 2]]


def test_an_empty_mask_stays_empty() -> None:
    assert not mask_on_grid(torch.zeros(9, 7, dtype=torch.bool), (4, 4)).any()


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    box=st.tuples(*(st.floats(0, 0.999) for _ in range(2)), *(st.floats(0, 1) for _ in range(2))),
)
def test_objects_are_kept_at_any_size(
    size: tuple[int, int], grid: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    """By the nearest pixel where that sees the object, and else on patches that hold a pixel of it."""
    mask = torch.zeros(size, dtype=torch.bool)
    top, left = int(box[0] * size[0]), int(box[1] * size[1])
    mask[top : top + 1 + int(box[2] * size[0]), left : left + 1 + int(box[3] * size[1])] = True
    got = mask_on_grid(mask, grid)
    rows, columns = (torch.arange(cells) * pixels // cells for cells, pixels in zip(grid, size, strict=True))
    nearest = mask[rows][:, columns]
    if nearest.any():
        assert torch.equal(got, nearest)
        return
    assert got.any()
    for row, column in got.nonzero().tolist():
        y1, x1 = row * size[0] // grid[0], column * size[1] // grid[1]
        y2, x2 = (
            -(-(index + 1) * pixels // cells)
            for index, pixels, cells in ((row, size[0], grid[0]), (column, size[1], grid[1]))
        )
        assert mask[y1:y2, x1:x2].any()
