"""Masks of annotations: polygons and run-length encoding (RLE) to boolean arrays and back."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco_mask

from no_time_to_train.data.records import Annotation
from no_time_to_train.errors import AnnotationError, MaskSizeError

# pycocotools walks along every edge of a polygon in fifths of a pixel, so an edge that ends far away costs memory
# without limit. No real annotation lies this many image sizes outside of its image.
_FARTHEST_IN_IMAGE_SIZES = 10
_FARTHEST_PIXEL = 10**7  # Times five, this fits the 32 bits in which pycocotools counts.
_MASKS_AT_ONCE = 16
_LONGEST = 7  # Characters of a value in compressed RLE: 32 bits and a sign, five bits each.
_REMEDY = "correct this annotation, or remove its segmentation so that its box is used"


def decode_mask(annotation: Annotation, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Decode the mask of an annotation.

    Args:
        annotation: With polygons, uncompressed RLE, or compressed RLE (counts as str or bytes).
        height: H of the annotation's image, in pixels.
        width: W of the annotation's image, in pixels.

    Returns:
        The mask, bool. Polygons are united and cut at the image's border.

    Raises:
        MaskSizeError: The RLE is of another size than the image.
        AnnotationError: There is only a box, or the polygons or the RLE are malformed.

    Source:
        RLE as in pycocotools 2.0 (``common/maskApi.c``); polygons are filled by pycocotools itself.
    """
    segmentation = annotation.segmentation
    if segmentation is None:
        raise AnnotationError(
            f"annotation {annotation.id} has a box but no mask", remedy="get the mask from the box with SAM2 first"
        )
    if isinstance(segmentation, dict):
        return _decode_rle(annotation.id, segmentation, height, width)
    return _decode_polygons(annotation.id, segmentation, height, width)


def check_mask(annotation: Annotation, height: int, width: int) -> None:
    """Refuse a mask that `decode_mask` would refuse, without drawing it.

    Args:
        annotation: One without a mask passes.
        height: H of the annotation's image, in pixels.
        width: W of the annotation's image, in pixels.

    Raises:
        MaskSizeError: The RLE is of another size than the image.
        AnnotationError: The polygons or the RLE are malformed.
    """
    if isinstance(annotation.segmentation, dict):
        _checked_runs(annotation.id, annotation.segmentation, height, width)
    elif annotation.segmentation is not None:
        _check_polygons(annotation.id, annotation.segmentation, height, width)


def _check_rle_size(annotation_id: int, rle: dict[str, Any], height: int, width: int) -> None:
    """Refuse RLE of another size than its image, without decoding it."""
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(side) is not int for side in size):
        raise AnnotationError(
            f"RLE of annotation {annotation_id}: expected size [height, width], got {repr(size)[:40]}", remedy=_REMEDY
        )
    if tuple(size) != (height, width):
        raise MaskSizeError(
            f"the mask of annotation {annotation_id} is of another size than its image: expected {width}x{height} "
            f"pixels, got {size[1]}x{size[0]}",
            remedy="correct the image's width and height in the JSON, or encode the mask at the image's size",
        )


def measure_rle(
    annotation_id: int, rle: dict[str, Any], height: int, width: int
) -> tuple[tuple[float, float, float, float], int]:
    """Return the box (x, y, width, height) and the area of compressed RLE in pixels, without decoding it.

    Raises:
        MaskSizeError: The RLE is of another size than the image.
        AnnotationError: The RLE is malformed.
    """
    _checked_runs(annotation_id, rle, height, width)
    # The bytes that were checked: pycocotools reads past the end of others.
    checked = {"size": [height, width], "counts": rle["counts"].encode("ascii", errors="replace")}
    x, y, box_width, box_height = coco_mask.toBbox(checked).tolist()
    return (x, y, box_width, box_height), int(coco_mask.area(checked))


def box_of_mask(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float, float, float]:
    """Return the box of a mask: x, y, width and height in pixels, all 0 for an empty mask.

    Examples:
        >>> box_of_mask(np.array([[False, True, True]]))
        (1.0, 0.0, 2.0, 1.0)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)


def encode_mask(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Encode a mask as compressed RLE, ready for JSON.

    Args:
        mask: H and W at least 1.

    Returns:
        ``{"size": [H, W], "counts": str}``.
    """
    return encode_masks(mask[None])[0]


def encode_masks(masks: Bool[np.ndarray, "N H W"]) -> list[dict[str, Any]]:
    """Encode masks as compressed RLE, ready for JSON; nothing but their boxes is walked through.

    Args:
        masks: H and W at least 1.

    Returns:
        ``{"size": [H, W], "counts": str}`` for each.

    Source:
        RLE as in pycocotools 2.0 (``common/maskApi.c``): runs down the columns, background first.
    """
    _, height, width = masks.shape
    found: list[dict[str, Any]] = []
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        changes = [_changes(mask) for mask in masks[start : start + _MASKS_AT_ONCE]]
        places = [place + index * height * width for index, place in enumerate(changes)]
        found += encode_changes(np.concatenate(places), np.array([len(place) for place in places]), height, width)
    return found


def encode_changes(
    places: Int64[np.ndarray, " changes"], numbers: Int64[np.ndarray, " N"], height: int, width: int
) -> list[dict[str, Any]]:
    """Encode masks of which it is known where they change, as `encode_masks` does.

    Args:
        places: Down the columns of one mask after the other, the pixels that differ from the one before; the one before
            a mask's first is background.
        numbers: How many of them each mask has.
        height: H of the masks, in pixels.
        width: W of the masks, in pixels.
    """
    ends = (np.arange(len(numbers)) + 1) * height * width
    whole = np.insert(places, numbers.cumsum(), ends)
    texts = _compressed(np.diff(whole, prepend=0), numbers + 1)
    return [{"size": [height, width], "counts": text} for text in texts]


def _changes(mask: Bool[np.ndarray, "H W"]) -> Int64[np.ndarray, " changes"]:
    """Return the pixels, counted down the columns, that differ from the one before; before the first is background.

    Only the mask's box is read, with the background after its rows and columns; where it reaches the last row, from
    which a run may go on in the next column, whole columns are.
    """
    height = len(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return rows
    bottom = int(rows[-1]) + 2
    top, bottom = (int(rows[0]), bottom) if bottom <= height else (0, height)
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left = int(columns[0])
    flat = mask[top:bottom, left : int(columns[-1]) + 2].T.reshape(-1)
    column, row = np.divmod(np.flatnonzero(np.diff(flat, prepend=False)), bottom - top)
    return (column + left) * height + row + top


def _compressed(runs: Int64[np.ndarray, " runs"], numbers: Int64[np.ndarray, " N"]) -> list[str]:
    """Compress the runs of masks, of which each has that many; the inverse of `_decompressed`."""
    ends = numbers.cumsum()
    place = np.arange(len(runs)) - np.repeat(ends - numbers, numbers)
    values = runs - np.where(place > 2, np.roll(runs, 2), 0)
    # A value takes so many characters that only copies of its sign would come after them.
    magnitudes, lengths = values ^ (values >> 63), np.ones(len(values), dtype=np.uint8)
    for digit in range(1, _LONGEST):
        lengths += magnitudes >= 1 << (5 * digit - 1)
    stops = lengths.cumsum(dtype=np.int64)
    characters = np.empty(int(lengths.sum(dtype=np.int64)), dtype=np.uint8)
    places = stops - lengths
    while len(values):
        more = lengths > 1
        characters[places] = (values & 31) + 32 * more + 48
        values, lengths, places = values[more] >> 5, lengths[more] - 1, places[more] + 1
    text = characters.tobytes().decode("ascii")
    borders = np.append(0, stops)[np.append(0, ends)].tolist()
    return [text[start:end] for start, end in pairwise(borders)]


def _decode_polygons(annotation_id: int, polygons: Sequence[Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    _check_polygons(annotation_id, polygons, height, width)
    united = coco_mask.merge(coco_mask.frPyObjects(list(polygons), height, width))
    return _decode_rle(annotation_id, united, height, width)


def _check_polygons(annotation_id: int, polygons: Sequence[Any], height: int, width: int) -> None:
    farthest = min(_FARTHEST_IN_IMAGE_SIZES * max(height, width), _FARTHEST_PIXEL)
    for index, polygon in enumerate(polygons):
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            got = f"{len(polygon)} numbers" if isinstance(polygon, list) else repr(polygon)[:40]
            raise AnnotationError(
                f"polygon {index} of annotation {annotation_id}: expected an even count of at least 6, got {got}",
                remedy=_REMEDY,
            )
        for value in polygon:
            if type(value) not in (int, float) or not -farthest <= value <= farthest:
                raise AnnotationError(
                    f"polygon {index} of annotation {annotation_id}: expected numbers from {-farthest} to {farthest} "
                    f"for an image of {width}x{height} pixels, got {repr(value)[:40]}",
                    remedy=_REMEDY,
                )


def _decode_rle(annotation_id: int, rle: dict[str, Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    runs = _checked_runs(annotation_id, rle, height, width)
    foreground = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(foreground, runs).reshape(width, height).T)


def _checked_runs(annotation_id: int, rle: dict[str, Any], height: int, width: int) -> Int64[np.ndarray, " runs"]:
    _check_rle_size(annotation_id, rle, height, width)
    runs = _runs_of(rle.get("counts"))
    # pycocotools would fill what the runs do not cover with whatever memory holds, so it is done here.
    pixels = height * width
    if runs is None or (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        got = "malformed counts" if runs is None else f"counts that sum to {runs.sum()}"
        raise AnnotationError(
            f"RLE of annotation {annotation_id}: expected counts that sum to its {pixels} pixels, got {got}",
            remedy=_REMEDY,
        )
    return runs


def _runs_of(counts: Any) -> Int64[np.ndarray, " runs"] | None:
    """Return the lengths of the runs, background first, or None if the counts are not RLE."""
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if isinstance(counts, bytes):
        return _decompressed(counts)
    # The limit keeps the sum within 64 bits; no image has as many pixels.
    if not isinstance(counts, list | tuple) or any(type(run) is not int or not 0 <= run < 2**31 for run in counts):
        return None
    return np.array(counts, dtype=np.int64)


def _decompressed(counts: bytes) -> Int64[np.ndarray, " runs"] | None:
    """Undo the compression of RLE counts, of which pycocotools offers no checked way.

    Each number is a row of characters from "0" on with five bits each, lowest first; bit 6 says that more follow, and
    the highest bit of the last is the sign. From the fourth number on, the number before the last one is taken off.
    """
    sixbits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(sixbits) or (sixbits < 0).any() or (sixbits > 63).any() or sixbits[-1] & 32:
        return None
    ends = np.flatnonzero(sixbits & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        return None  # More than 32 bits and a sign.
    shifts = 5 * (np.arange(len(sixbits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((sixbits & 31) << shifts, starts)
    runs -= np.where(sixbits[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return np.asarray(runs)
