"""Reference sets: which annotations of which images stand for which class."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from no_time_to_train.data.coco import Annotation, CocoDataset, ImageRecord, load_coco
from no_time_to_train.data.records import MOST_BEYOND, is_below_a_pixel, pixels_beyond
from no_time_to_train.data.references.pickles import look_up, named_in
from no_time_to_train.errors import AnnotationError, ConfigError, EmptyClassError, EmptyMaskError
from no_time_to_train.io.safe_pickle import read_plain_pickle

PICKLE_SUFFIXES = (".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Reference:
    """One annotation that shows a class, or shows what it is not.

    Args:
        image: The image it is in.
        annotation: Its mask, or where it has no mask its points or its box.
        class_index: Place of its class in the set's `class_names`.
        negative: It shows what is taken for the class and is not.
    """

    image: ImageRecord
    annotation: Annotation
    class_index: int
    negative: bool = False


@dataclass(frozen=True)
class ReferenceSet:
    """The classes to look for, and the references of each.

    Args:
        class_names: Every class has at least one reference that is not negative.
        category_ids: COCO's id of each class, for results.
        references: By ascending class index, within a class in the order of the file.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    references: tuple[Reference, ...]


def load_references(
    path: Path, *, class_names: Sequence[str] | None = None, annotations: Path | None = None
) -> ReferenceSet:
    """Read a reference set.

    Crowds are left out: their masks cover more than one instance. In JSON, an annotation with ``"negative": true`` is
    a negative reference.

    Args:
        path: A COCO JSON file all of whose annotations are references, or a pickle (``.pkl``, ``.pickle``) of the
            original project: category id -> a list of samples, each of which is one reference: the first annotation
            that it names, however many it names, as the original reads it. In the place of the list may be a dict:
            image id -> annotation ids, each of which is a reference.
        class_names: The classes to take, in this order; all those of the file in its order if not given, and for a
            pickle all those that it names in the order of `annotations`.
        annotations: For a pickle, the COCO file that its ids are of.

    Raises:
        DataNotFoundError: There is no such file.
        AnnotationError: A file is malformed, the pickle asks for more than plain values, or an id is not there.
        ConfigError: A pickle without `annotations`, or JSON with them, or a class named twice.
        UnknownNameError: A class that the file does not have.
        EmptyClassError: Classes without a reference.
        EmptyMaskError: A reference whose box covers nothing of its image.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        if annotations is None:
            raise ConfigError(
                f"the pickle {path} holds only ids, and the annotations that they are of were not given",
                remedy="give the COCO JSON file that it was sampled from as annotations, or "
                "make the set anew with: ntt sample-references",
            )
        named = named_in(read_plain_pickle(path), path)
        dataset = load_coco(annotations)
        chosen = look_up(named, dataset, path)
        if class_names is None:
            class_names = [category.name for category in dataset.categories if category.id in named]
    else:
        if annotations is not None:
            raise ConfigError(
                f"{path} is not a pickle and holds its own annotations, yet got {annotations} as well",
                remedy="leave out annotations, or name the pickle",
            )
        dataset = load_coco(path)
        chosen = list(dataset.annotations)
    if class_names is not None:
        dataset = dataset.select(class_names)
    return _reference_set(dataset, chosen, str(path))


def reference_set(dataset: CocoDataset, class_names: Sequence[str] | None = None) -> ReferenceSet:
    """Return the references of a dataset, in which every annotation is one, as `load_references` does.

    Args:
        dataset: For example of `read_references`.
        class_names: The classes to take, in this order; all of them if not given.
    """
    if class_names is not None:
        dataset = dataset.select(class_names)
    return _reference_set(dataset, dataset.annotations, dataset.source)


def load_negative_references(path: Path, class_names: Sequence[str]) -> tuple[Reference, ...]:
    """Read references that show what classes are taken for and are not, from a COCO JSON all of whose are such.

    Args:
        path: The file; what it has of other classes is left out, and so are crowds.
        class_names: Of the memory that they are for.

    Raises:
        DataNotFoundError: There is no such file.
        AnnotationError: The file is malformed.
        ConfigError: It has no annotation of these classes.
    """
    return negative_references(load_coco(path), class_names)


def negative_references(dataset: CocoDataset, class_names: Sequence[str]) -> tuple[Reference, ...]:
    """Return the annotations of these classes as negative references, as `load_negative_references` does."""
    indices = {name: index for index, name in enumerate(class_names)}
    references = tuple(
        _checked(Reference(dataset.images_by_id[entry.image_id], entry, indices[name], negative=True), dataset.source)
        for entry in dataset.annotations
        if (name := dataset.categories_by_id[entry.category_id].name) in indices and not entry.iscrowd
    )
    if not references:
        raise ConfigError(
            f"{dataset.source} has no annotation of the memory's classes: {', '.join(class_names)}",
            remedy="name the categories as the references do",
        )
    return references


def _reference_set(dataset: CocoDataset, chosen: Iterable[Annotation], source: str) -> ReferenceSet:
    indices = dataset.class_indices
    references = [
        Reference(
            dataset.images_by_id[annotation.image_id], annotation, indices[annotation.category_id], annotation.negative
        )
        for annotation in chosen
        if annotation.category_id in indices and not annotation.iscrowd
    ]
    shown = {reference.class_index for reference in references if not reference.negative}
    refused = {annotation.category_id for annotation in dataset.annotations if annotation.negative}
    empty = [name for index, name in enumerate(dataset.class_names) if index not in shown]
    if empty or not references:
        listed = f": {', '.join(empty[:20])}{', ...' if len(empty) > 20 else ''}" if empty else ""
        crowds = sum(annotation.iscrowd for annotation in dataset.annotations)
        remedy = "add a reference for each, or name only the classes to look for in class_names"
        if crowds:
            # CVAT writes it for every mask that was drawn by brush.
            listed += f"; {crowds} annotations are crowds, which are not references"
            remedy = "set iscrowd to 0 where an annotation shows one object, or " + remedy
        if negative := [name for name in empty if dataset.categories[dataset.class_names.index(name)].id in refused]:
            listed += f"; there are only negative references of {', '.join(negative[:20])}"
        raise EmptyClassError(
            f"{source} has no reference for {len(empty)} of its {len(dataset.categories)} classes{listed}",
            remedy=remedy,
        )
    references = [_checked(reference, source) for reference in references]
    references.sort(key=lambda reference: reference.class_index)
    return ReferenceSet(dataset.class_names, tuple(category.id for category in dataset.categories), tuple(references))


def _checked(reference: Reference, source: str) -> Reference:
    """Return a reference with its box clipped to its image, by the pixels by which tools round boxes.

    The box says what is cut out around the object, also where there is a mask.

    Raises:
        EmptyMaskError: The box covers nothing of the image.
        AnnotationError: The box ends farther outside, as two corners do that are taken for a corner and a size. Or it
            is of a pixel at most, as one of relative coordinates is.
    """
    annotation, image = reference.annotation, reference.image
    if annotation.points and annotation.segmentation is None:
        _check_points(reference, source)
        return reference
    x, y, width, height = annotation.bbox
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, float(image.width)), min(y + height, float(image.height))
    unmasked = annotation.segmentation is None
    # With a mask, a line says where the object is.
    sized = (width and height) if unmasked else (width or height)
    if not (sized and _meets(x, width, image.width) and _meets(y, height, image.height)):
        masked = "no mask," if unmasked else "a mask,"
        raise EmptyMaskError(
            f"{source}: annotation {annotation.id} in {image.file_name} has {masked} and its box "
            f"{[x, y, width, height]} covers nothing of its image of {image.width}x{image.height} pixels",
            remedy="correct the box, which is x, y, width and height, or remove the annotation",
        )
    # A box of one by one is relative too, of a whole image, unless that has no more pixels.
    whole = unmasked and width == height == 1 and image.width * image.height > 1
    if is_below_a_pixel(annotation) or whole:
        raise AnnotationError(
            f"{source}: the box {[x, y, width, height]} of annotation {annotation.id} in {image.file_name} is of "
            "a pixel at most",
            remedy="give x, y, width and height in pixels, not as parts of the image's size",
        )
    beyond = pixels_beyond(annotation, image)
    if beyond > MOST_BEYOND:
        raise AnnotationError(
            f"{source}: the box {[x, y, width, height]} of annotation {annotation.id} ends {beyond:g} pixels "
            f"outside of {image.file_name} of {image.width}x{image.height} pixels",
            remedy="give x, y, width and height, not two corners; and cut it at the image's border",
        )
    if not beyond:
        return reference
    return replace(reference, annotation=replace(annotation, bbox=(left, top, right - left, bottom - top)))


def _check_points(reference: Reference, source: str) -> None:
    image = reference.image
    for x, y in reference.annotation.points:
        if not (0 <= x < image.width and 0 <= y < image.height):
            raise AnnotationError(
                f"{source}: the point {[x, y]} of annotation {reference.annotation.id} is outside of {image.file_name} "
                f"of {image.width}x{image.height} pixels",
                remedy="give x and y in pixels",
            )


def _meets(start: float, size: float, side: int) -> bool:
    """Return whether a stretch, or a point if its size is 0, is within a side of an image."""
    return min(start + size, side) > max(start, 0) if size else 0 <= start <= side


def reference_window(
    box: tuple[float, float, float, float], height: int, width: int, scale: float = 1.2
) -> tuple[int, int, int, int]:
    """Return the window around a reference's box: a square of its longer side times `scale`, clipped to the image.

    Args:
        box: x, y, width and height, in pixels.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        scale: Side of the square in longer box sides.

    Returns:
        The first and one past the last column and row: x1, y1, x2, y2. At least one pixel each way.

    Examples:
        >>> reference_window((10.0, 20.0, 40.0, 20.0), height=100, width=100)
        (6, 6, 54, 54)
    """
    x, y, box_width, box_height = box
    half = max(box_width, box_height, 1) * scale / 2
    centre_x, centre_y = x + box_width / 2, y + box_height / 2
    x1 = min(max(0, math.floor(centre_x - half)), width - 1)
    y1 = min(max(0, math.floor(centre_y - half)), height - 1)
    return (
        x1,
        y1,
        max(x1 + 1, min(width, math.ceil(centre_x + half))),
        max(y1 + 1, min(height, math.ceil(centre_y + half))),
    )
