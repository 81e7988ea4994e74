import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from no_time_to_train.data import masks as masks_module
from no_time_to_train.data.masks import decode_mask, encode_mask, encode_masks
from no_time_to_train.data.records import Annotation
from no_time_to_train.errors import AnnotationError, MaskSizeError


def with_mask(segmentation: Any) -> Annotation:
    return Annotation(77, 1, 1, (0, 0, 1, 1), 1.0, segmentation)


def runs_of(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Count the runs column by column, the slow and plain way."""
    runs, value = [0], False
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return runs


def by_pycocotools(segmentation: Any) -> Bool[np.ndarray, "H W"]:
    with warnings.catch_warnings():
        # pycocotools 2.0.11 does not take numpy 2's copy argument.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return np.asarray(coco_mask.decode(segmentation) != 0)


MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_every_encoding_gives_the_mask_back(mask: Bool[np.ndarray, "H W"]) -> None:
    height, width = mask.shape
    encoded = encode_mask(mask)
    assert encoded["size"] == [height, width]
    for segmentation in (
        encoded,
        {**encoded, "counts": encoded["counts"].encode()},
        {"size": (height, width), "counts": runs_of(mask)},
    ):
        decoded = decode_mask(with_mask(segmentation), height, width)
        assert decoded.dtype == bool
        assert decoded.flags.c_contiguous
        assert np.array_equal(decoded, mask)


def encoded_by_pycocotools(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


@given(MASKS)
def test_encodings_are_pycocotools(mask: Bool[np.ndarray, "H W"]) -> None:
    assert encode_mask(mask) == encoded_by_pycocotools(mask)


@pytest.mark.parametrize("at_once", [1, 7, 40])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 12), (40, 30), (300, 200)])
def test_masks_encoded_together_are_pycocotools(
    at_once: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks_module, "_MASKS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    height, width = shape
    masks = rng.random((40, *shape)) < rng.random((40, 1, 1)) ** 2
    # Nothing and everything, beside each other too; whole columns and rows at each border; single pixels; boxes.
    masks[:8] = np.array([0, 1, 1, 0, 0, 1, 0, 1], dtype=bool)[:, None, None]
    masks[8:12] = False
    masks[8, :, 0] = masks[9, :, -1] = masks[10, 0] = masks[11, -1] = True
    masks[12:24] = False
    for index in range(12, 24):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        masks[index, top : top + (1 if index < 16 else height), left : left + (1 if index < 16 else width // 2 + 1)] = (
            True
        )
    assert encode_masks(masks) == [encoded_by_pycocotools(mask) for mask in masks]
    assert encode_masks(masks[:0]) == []


def test_numbers_of_every_length_are_pycocotools() -> None:
    masks = np.zeros((6, 2000, 2500), dtype=bool)
    for index, mask in enumerate(masks):
        flat = mask.reshape(-1)
        flat[5 ** (2 * index) % flat.size :: 7 * 10**index] = True
        flat[:: 3 * 10**index + 1] = True
    assert encode_masks(masks) == [encoded_by_pycocotools(mask) for mask in masks]


@pytest.mark.parametrize("density", [0.001, 0.5])
def test_long_runs_and_many_runs_agree_with_pycocotools(density: float) -> None:
    mask = np.random.default_rng(0).random((700, 500)) < density
    segmentation = encode_mask(mask)
    assert np.array_equal(decode_mask(with_mask(segmentation), 700, 500), by_pycocotools(segmentation))


def test_polygons_are_united() -> None:
    polygons = [[0, 0, 3, 0, 3, 2, 0, 2], [4.0, 3.0, 6.0, 3.0, 6.0, 5.0, 4.0, 5.0]]
    expected = np.zeros((6, 8), bool)
    expected[0:2, 0:3] = True
    expected[3:5, 4:6] = True
    assert np.array_equal(decode_mask(with_mask(polygons), 6, 8), expected)


def test_polygons_are_cut_at_the_border() -> None:
    expected = np.zeros((6, 8), bool)
    expected[:2] = True
    assert np.array_equal(decode_mask(with_mask([[-9, -9, 30, -9, 30, 2, -9, 2]]), 6, 8), expected)


def test_four_numbers_are_no_box_in_disguise() -> None:
    with pytest.raises(AnnotationError, match="polygon 0 of annotation 77: expected an even count of at least 6"):
        decode_mask(with_mask([[1, 1, 2, 2]]), 6, 8)


@pytest.mark.parametrize(
    ("polygon", "got"),
    [
        ([1, 1, 2, 2, 3], "got 5 numbers"),
        ([1, 1, 2, 2, 3, 3, 4], "got 7 numbers"),
        ([], "got 0 numbers"),
        ({"x": 1}, "got {'x': 1}"),
        (5, "got 5"),
        ([1, 1, 2, "2", 3, 3], "got '2'"),
        ([1, 1, 2, None, 3, 3], "got None"),
        ([1, 1, 2, True, 3, 3], "got True"),
        ([1, 1, 2, float("nan"), 3, 3], "got nan"),
        ([1, 1, 2, 1e12, 3, 3], "expected numbers from -80 to 80 for an image of 8x6 pixels, got 1000000000000.0"),
    ],
)
def test_malformed_polygons_are_refused(polygon: Any, got: str) -> None:
    with pytest.raises(AnnotationError, match="polygon 1 of annotation 77") as caught:
        decode_mask(with_mask([[0, 0, 1, 0, 1, 1], polygon]), 6, 8)
    assert got in str(caught.value)


def test_a_mask_of_another_size_is_named() -> None:
    segmentation = encode_mask(np.zeros((8, 6), bool))
    with pytest.raises(MaskSizeError, match=r"annotation 77 .* expected 8x6 pixels, got 6x8"):
        decode_mask(with_mask(segmentation), 6, 8)


@pytest.mark.parametrize(
    "counts",
    [
        *(None, 5, {}, "", b"", "0", "5", "5P1", "5n", "5nnnnnnnnnn0", "\u00fc", "01400000!", "\x00"),
        *([], [16, 1], [15], [3, -3, 16], [3, 3.0, 10], [3, True, 12], ["16"], [2**40], [10**400], [2**63, 2**63, 16]),
    ],
)
def test_malformed_counts_are_refused(counts: Any) -> None:
    with pytest.raises(AnnotationError, match="RLE of annotation 77: expected counts that sum to its 16 pixels"):
        decode_mask(with_mask({"size": [4, 4], "counts": counts}), 4, 4)


@pytest.mark.parametrize("size", [None, 4, [4], [4, 4, 4], [4.0, 4], "44", [True, 4]])
def test_a_malformed_size_is_refused(size: Any) -> None:
    with pytest.raises(AnnotationError, match=r"expected size \[height, width\]"):
        decode_mask(with_mask({"size": size, "counts": [16]}), 4, 4)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=30))
def test_no_counts_raise_anything_else(counts: bytes | str) -> None:
    try:
        mask = decode_mask(with_mask({"size": [4, 4], "counts": counts}), 4, 4)
    except AnnotationError:
        return
    assert np.array_equal(mask, by_pycocotools({"size": [4, 4], "counts": counts}))


def test_a_box_alone_has_no_mask() -> None:
    with pytest.raises(AnnotationError, match=r"annotation 77 has a box but no mask \(get the mask from the box"):
        decode_mask(with_mask(None), 4, 4)
