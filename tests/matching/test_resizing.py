import pytest
import torch
import torch.nn.functional as F

from no_time_to_train.matching import resizing
from no_time_to_train.matching.resizing import intersections, resize_masks, resized_bands

SIZES = [(33, 21), (16, 16), (8, 12), (7, 5), (1, 1), (200, 3), (97, 133)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("elements", [1, 300, 2**22])
def test_bands_are_the_whole_resized(size: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_BAND_ELEMENTS", elements)
    logits = torch.randn(9, 16, 12)
    resized = F.interpolate(logits[:, None], size=size, mode="bilinear")[:, 0]
    differs = resize_masks(logits, size) != (resized > 0)
    # Other roundings may move a logit across 0 that is nothing but rounding.
    assert resized[differs].abs().max().item() < 1e-5 if differs.any() else True
    assert sum(band.shape[1] for band in resized_bands(logits, size)) == size[0]


@pytest.mark.parametrize("elements", [1, 300, 2**22])
def test_intersections_are_counted_to_the_pixel(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_BAND_ELEMENTS", elements)
    logits = torch.randn(9, 16, 12)
    masks = resize_masks(logits, (40, 30)).flatten(1).double()
    assert torch.equal(intersections(logits, (40, 30)).double(), masks @ masks.T)


def test_nothing_is_nothing() -> None:
    assert resize_masks(torch.empty(0, 4, 4), (7, 5)).shape == (0, 7, 5)
    assert intersections(torch.empty(0, 4, 4), (7, 5)).shape == (0, 0)
