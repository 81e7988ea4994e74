"""The pickles of the original project, which name annotations of a COCO file by id."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from no_time_to_train.data.records import Annotation, CocoDataset
from no_time_to_train.errors import AnnotationError

log = logging.getLogger(__name__)

# A short pickle can name one long list in many places; no real set comes near.
_MOST_REFERENCES = 1_000_000
_OTHER_FILE = "give the COCO JSON file that the pickle was sampled from"
_PICKLE_REMEDY = "make the set anew with: ntt sample-references"


def named_in(content: Any, path: Path) -> dict[int, list[tuple[int, int]]]:
    """Return the (image id, annotation id) pairs of each category id that a pickle names, one for each reference."""
    if not isinstance(content, dict) or not content:
        raise _malformed(path, "the pickle", "a dict of category ids")
    named: dict[int, list[tuple[int, int]]] = {}
    steps = unused = 0
    for category_id, images in content.items():
        where = f"class {category_id!r:.40}"
        if type(category_id) is not int:
            raise _malformed(path, where, "a category id")
        pairs = named[category_id] = []
        for image_id, annotation_ids in _images_in(images, where, path):
            if not isinstance(annotation_ids, list | tuple):
                raise _malformed(path, where, "a list of annotation ids for each image")
            steps += 1 + len(annotation_ids)
            if steps > _MOST_REFERENCES:
                raise _malformed(path, "the pickle", f"at most {_MOST_REFERENCES} references")
            if any(type(number) is not int for number in (image_id, *annotation_ids)):
                raise _malformed(path, where, "image and annotation ids that are integers")
            # Where an image has two annotations of a class, the original's coco_to_pkl.py writes a sample for each of
            # them that names both.
            taken = annotation_ids if isinstance(images, dict) else annotation_ids[:1]
            unused += len(annotation_ids) - len(taken)
            pairs += [(image_id, annotation_id) for annotation_id in taken]
    if unused:
        log.warning("%s: the first annotation of each sample is its reference, %d others are not used", path, unused)
    return named


def _images_in(images: Any, where: str, path: Path) -> Iterator[tuple[Any, Any]]:
    if isinstance(images, dict):
        yield from images.items()
        return
    if not isinstance(images, list | tuple):
        raise _malformed(path, where, "a list or dict of images")
    for image in images:
        if isinstance(image, dict) and image.keys() >= {"img_id", "ann_ids"}:
            yield image["img_id"], image["ann_ids"]
        elif isinstance(image, list | tuple) and len(image) == 2:
            yield image[0], image[1]
        else:
            raise _malformed(path, where, "images as {'img_id': ..., 'ann_ids': [...]} or (image id, annotation ids)")


def look_up(named: Mapping[int, list[tuple[int, int]]], dataset: CocoDataset, path: Path) -> list[Annotation]:
    """Return the annotations that a pickle names.

    Raises:
        AnnotationError: The dataset does not have one of them.
    """
    found = []
    for category_id, pairs in named.items():
        if category_id not in dataset.categories_by_id:
            raise AnnotationError(
                f"{path} names category {category_id}, which {dataset.source} does not have", remedy=_OTHER_FILE
            )
        for image_id, annotation_id in pairs:
            annotation = dataset.annotations_by_id.get(annotation_id)
            got = (annotation.category_id, annotation.image_id) if annotation else None
            if annotation is None or got != (category_id, image_id):
                raise AnnotationError(
                    f"{path} names annotation {annotation_id} of category {category_id} in image {image_id}; in "
                    f"{dataset.source} it is {f'of category {got[0]} in image {got[1]}' if got else 'not there'}",
                    remedy=_OTHER_FILE,
                )
            found.append(annotation)
    return found


def _malformed(path: Path, where: str, expected: str) -> AnnotationError:
    return AnnotationError(f"{path}: {where}: expected {expected}", remedy=_PICKLE_REMEDY)
