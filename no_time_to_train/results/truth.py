"""Checks of the annotations from which average precision is computed."""

from collections.abc import Sequence

from no_time_to_train.data.masks import check_mask
from no_time_to_train.data.records import MOST_BEYOND, Annotation, CocoDataset, is_below_a_pixel, pixels_beyond
from no_time_to_train.errors import AnnotationError, MaskSizeError


def check_masks(dataset: CocoDataset) -> None:
    """Refuse masks that cannot be decoded: the evaluator would take them for empty ones or for boxes, or fail.

    Raises:
        MaskSizeError: A mask is of another size than its image.
        AnnotationError: Polygons or RLE are malformed.
    """
    for annotation in dataset.annotations:
        image = dataset.images_by_id[annotation.image_id]
        try:
            check_mask(annotation, image.height, image.width)
        except (AnnotationError, MaskSizeError) as error:
            raise type(error)(f"{dataset.source}: {error.message}", remedy=error.remedy) from error


def doubts_of(dataset: CocoDataset) -> list[str]:
    """Return a sentence for each kind of annotation that is valid, and yet rarely what is meant."""
    pairs = [(annotation, dataset.images_by_id[annotation.image_id]) for annotation in dataset.annotations]
    found = (
        ([entry for entry, image in pairs if pixels_beyond(entry, image) > MOST_BEYOND], _OUTSIDE),
        ([entry for entry, _ in pairs if is_below_a_pixel(entry)], _SMALL),
        ([entry for entry, _ in pairs if entry.iscrowd], _CROWDS),
        ([entry for entry, _ in pairs if entry.negative], _NEGATIVE),
    )
    return [_told(dataset, entries, what) for entries, what in found if entries]


_OUTSIDE = f"boxes that end more than {MOST_BEYOND} pixels outside their image: expected x, y, width, height in pixels"
_SMALL = "boxes of less than a pixel: expected pixels, not parts of the image's size"
_CROWDS = "crowds (iscrowd 1), which count as neither found nor missed"
_NEGATIVE = 'marked "negative": true, which is for references only: here they count as objects'


def _told(dataset: CocoDataset, entries: Sequence[Annotation], what: str) -> str:
    first = entries[0]
    return (
        f"{len(entries)} of {len(dataset.annotations)} annotations of {dataset.source} are {what} "
        f"(first: annotation {first.id} in {dataset.images_by_id[first.image_id].file_name})"
    )
