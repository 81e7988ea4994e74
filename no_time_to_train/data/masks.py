"""Masks of annotations: polygons and run-length encoding (RLE) to boolean arrays and back."""

import math
from collections.abc import Sequence
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


def encode_mask(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Encode a mask as compressed RLE, ready for JSON.

    Args:
        mask: H and W at least 1.

    Returns:
        ``{"size": [H, W], "counts": str}``.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _decode_polygons(annotation_id: int, polygons: Sequence[Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
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
    united = coco_mask.merge(coco_mask.frPyObjects(list(polygons), height, width))
    return _decode_rle(annotation_id, united, height, width)


def _decode_rle(annotation_id: int, rle: dict[str, Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    size, counts = rle.get("size"), rle.get("counts")
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
    runs = _runs_of(counts)
    # pycocotools would fill what the runs do not cover with whatever memory holds, so it is done here.
    pixels = height * width
    if runs is None or (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        got = "malformed counts" if runs is None else f"counts that sum to {runs.sum()}"
        raise AnnotationError(
            f"RLE of annotation {annotation_id}: expected counts that sum to its {pixels} pixels, got {got}",
            remedy=_REMEDY,
        )
    foreground = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(foreground, runs).reshape(width, height).T)


def _runs_of(counts: Any) -> Int64[np.ndarray, " runs"] | None:
    """Return the lengths of the runs, background first, or None if the counts are no RLE."""
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
    if lengths.max() > math.ceil(33 / 5):
        return None  # More than 32 bits and a sign.
    shifts = 5 * (np.arange(len(sixbits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((sixbits & 31) << shifts, starts)
    runs -= np.where(sixbits[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return np.asarray(runs)
