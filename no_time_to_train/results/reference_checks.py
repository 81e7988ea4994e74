"""Look for what makes a poor reference: masks cut off or tiny, one image twice, one that is unlike its class-mates."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from no_time_to_train.data.datasets import ReferenceDataset, ReferenceItem
from no_time_to_train.data.masks import box_of_mask, decode_mask, encode_mask
from no_time_to_train.data.records import Annotation, CocoDataset
from no_time_to_train.data.references import Reference, ReferenceSet
from no_time_to_train.data.sampling import MIN_AREA_FRACTION
from no_time_to_train.io.paths import read_regular

Box = tuple[float, float, float, float]

# A patch of the smallest images that are encoded well: an object of fewer pixels has no detail, however enlarged.
LEAST_PIXELS = 256
# Part of its box that a mask drawn by a model covers at least; less is mostly a part of the object.
LEAST_OF_BOX = 0.1
# How much less like its class-mates than they are like one another a reference is, by cosine, to be doubted.
MOST_BELOW_CLASS = 0.15
_HALF_PIXEL = 0.5


class ReferenceModel(Protocol):
    """Draws masks and encodes references; `Segmenter` is one."""

    def object_of(self, item: ReferenceItem) -> tuple[Bool[np.ndarray, "H W"], Box]:
        """Return a reference's mask and box; a mask that it does not have is drawn."""

    def mean_of(self, item: ReferenceItem) -> Float[np.ndarray, " D"]:
        """Return what memory keeps of a reference."""


@dataclass
class CheckedReference:
    """A reference, and what is to be said of it.

    Attributes:
        reference: What the annotations say.
        class_name: Its class.
        annotation: With the mask that the model drew, where it had none.
        warnings: What is doubtful about it, a sentence each.
        similarity: Cosine with the mean of the other references of its class; None without a model, or where it is the
            only one, or negative.
    """

    reference: Reference
    class_name: str
    annotation: Annotation
    warnings: list[str]
    similarity: float | None = None

    @property
    def lines(self) -> list[str]:
        """The warnings, each with the class and the image."""
        negative = "not " if self.reference.negative else ""
        return [f"{negative}{self.class_name}: {self.reference.image.file_name}: {said}" for said in self.warnings]


def check_references(
    references: ReferenceSet, images: Path, model: ReferenceModel | None = None
) -> list[CheckedReference]:
    """Check references one by one, and those of a class with one another.

    A warning is said of a reference

    - whose mask has a pixel in the first or last row or column of its image, or whose box ends there: the object is
      probably cut off;
    - whose mask (or box) covers less than 0.3 % of its image, as `ntt sample-references` leaves out, or fewer than 256
      pixels;
    - whose mask was drawn by the model and covers less than a tenth of its box;
    - whose image file has the same content as that of an earlier one of its class;
    - that is more like another class than like the other references of its own, or less like these by a cosine of
      0.15 than the median of its class is. Features are needed for this, and negative references are left out.

    Args:
        references: Of `reference_set`.
        images: The folder to which their file names are relative.
        model: Draws the masks that are missing, and gives features; without it only what the files say is checked.

    Returns:
        The references in their order.

    Raises:
        NoTimeToTrainError: An image or a mask cannot be read.
    """
    dataset = ReferenceDataset(references.references, images)
    checked: list[CheckedReference] = []
    means: list[Float[np.ndarray, " D"]] = []
    for index, reference in enumerate(references.references):
        item = dataset[index]
        mask, annotation = item.mask, reference.annotation
        if mask is None and model is not None:
            mask, _ = model.object_of(item)
            box, area = box_of_mask(mask), float(mask.sum())
            annotation = replace(annotation, segmentation=encode_mask(mask), bbox=box, area=area, points=())
        warnings = list(_shape_warnings(item, mask))
        name = references.class_names[reference.class_index]
        checked.append(CheckedReference(reference, name, annotation, warnings))
        if model is not None:
            # The mask is not drawn once more; a box stays as it was given, since it says what is encoded.
            shown = replace(reference, annotation=annotation) if reference.annotation.points else reference
            means.append(model.mean_of(replace(item, mask=mask, reference=shown)))
    _compare_files(checked, images)
    if means:
        _compare_features(checked, np.stack(means), references.class_names)
    return checked


def with_drawn_masks(dataset: CocoDataset, checked: Sequence[CheckedReference]) -> CocoDataset:
    """Return a dataset with the masks that a model drew for `check_references`, which then need no model anymore."""
    drawn = {each.annotation.id: each.annotation for each in checked}
    annotations = tuple(drawn.get(annotation.id, annotation) for annotation in dataset.annotations)
    return replace(dataset, annotations=annotations)


def _shape_warnings(item: ReferenceItem, mask: Bool[np.ndarray, "H W"] | None) -> Iterator[str]:
    height, width = item.image.shape[:2]
    given = item.reference.annotation.bbox
    if mask is None:
        if item.reference.annotation.points:
            return
        x, y, across, down = given
        area, what = across * down, "box"
        edges = min(x, y, width - x - across, height - y - down) < _HALF_PIXEL
    else:
        area, what = float(mask.sum()), "mask"
        edges = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
    if edges:
        yield f"its {what} touches the border of the image: is the object cut off?"
    part = area / (height * width)
    if part < MIN_AREA_FRACTION or area < LEAST_PIXELS:
        yield f"its {what} is tiny: {area:.0f} pixels, {part:.1%} of the image"
    if mask is not None and item.mask is None and area < LEAST_OF_BOX * given[2] * given[3]:
        yield f"the mask that was drawn covers {area / (given[2] * given[3]):.0%} of the box: look at it"


def _compare_files(checked: Sequence[CheckedReference], images: Path) -> None:
    """Warn of images of one class that are the same file under another name."""
    hashes: dict[str, str] = {}
    first: dict[tuple[str, bool, str], str] = {}
    for each in checked:
        name = each.reference.image.file_name
        if name not in hashes:
            hashes[name] = hashlib.sha256(read_regular(images / name)).hexdigest()
        other = first.setdefault((each.class_name, each.reference.negative, hashes[name]), name)
        if other != name:
            each.warnings.append(f"the same image as {other}")


def _compare_features(
    checked: Sequence[CheckedReference], means: Float[np.ndarray, "R D"], class_names: Sequence[str]
) -> None:
    """Compare each reference with the others of its class (leave-one-out), and with the other classes."""
    positive = np.array([not each.reference.negative for each in checked])
    classes = np.array([each.reference.class_index for each in checked])
    sums = np.stack([means[positive & (classes == index)].sum(axis=0) for index in range(len(class_names))])
    own: dict[int, list[float]] = {}
    for index in np.flatnonzero(positive).tolist():
        each, label = checked[index], int(classes[index])
        if (positive & (classes == label)).sum() > 1:
            each.similarity = _cosine(means[index], sums[label] - means[index])
            own.setdefault(label, []).append(each.similarity)
    for index in np.flatnonzero(positive).tolist():
        each, label = checked[index], int(classes[index])
        if each.similarity is None:
            continue
        others = {name: _cosine(means[index], sums[k]) for k, name in enumerate(class_names) if k != label}
        nearest = max(others, key=others.__getitem__, default=None)
        usual = float(np.median(own[label]))
        if nearest is not None and others[nearest] > each.similarity:
            each.warnings.append(
                f"more like {nearest} ({others[nearest]:.2f}) than like the other references of its class "
                f"({each.similarity:.2f})"
            )
        elif each.similarity < usual - MOST_BELOW_CLASS:
            each.warnings.append(
                f"unlike the other references of its class: a cosine of {each.similarity:.2f}, where {usual:.2f} is "
                "usual"
            )


def _cosine(first: Float[np.ndarray, " D"], second: Float[np.ndarray, " D"]) -> float:
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def shown_mask(checked: CheckedReference) -> Bool[np.ndarray, "H W"]:
    """Return what is shown of a reference: its mask, or its box, or discs around its points."""
    image, annotation = checked.reference.image, checked.annotation
    if annotation.segmentation is not None:
        return decode_mask(annotation, image.height, image.width)
    mask = np.zeros((image.height, image.width), dtype=bool)
    if annotation.points:
        rows, columns = np.mgrid[: image.height, : image.width]
        radius = max(image.height, image.width) / 60
        for x, y in annotation.points:
            mask |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2 + 1
        return mask
    x, y, width, height = annotation.bbox
    mask[round(y) : max(round(y + height), 1), round(x) : max(round(x + width), 1)] = True
    return mask
