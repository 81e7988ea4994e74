"""Choosing reference images: K annotations a class from a COCO file, the same ones for the same seed."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from no_time_to_train.configs.splits import resolve_split
from no_time_to_train.data.coco import Annotation, CocoDataset, ImageRecord, decode_mask, load_coco
from no_time_to_train.errors import AnnotationError, ConfigError, MaskSizeError, NotEnoughReferencesError

MIN_AREA_FRACTION = 0.003
"""An object smaller than this part of its image is not a reference.

At the 592 px to which images are scaled it covers 1051 square pixels, four patches of 16 px: fewer, and most patches
that its mask touches are background. In COCO's own images (640x480) it is 922 square pixels, near the bound of 32x32
below which COCO calls an object small.
"""

_BORDER_TOLERANCE = 1.0  # Annotation tools round boxes to the outer side of the last pixel.


def sample_references(
    annotations: Path | CocoDataset,
    *,
    shots: int,
    seed: int = 0,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    allow_fewer: bool = False,
    min_area: float = MIN_AREA_FRACTION,
) -> CocoDataset:
    """Choose references: `shots` annotations of each class, each in another image.

    An annotation is used if it is neither a crowd nor negative nor tiny, if its box has a width and height of at least
    one pixel and is within the image, and if its mask, where it has one, can be decoded. Over all classes an image is
    used once where that is possible at all; otherwise classes share it.

    Args:
        annotations: A COCO or LVIS file, or what `load_coco` made of it.
        shots: Annotations a class, at least 1.
        seed: The choice depends on it and on the ids in the file, not on the order of the file.
        split: Name of a published split, see `splits.SPLITS`.
        class_names: Names of the classes; with neither this nor `split`, all classes by ascending id.
        allow_fewer: Whether a class may get fewer than `shots`, though not none.
        min_area: Least area of an object, as a fraction of the area of its image.

    Returns:
        The chosen annotations by ascending id, their images, and the classes in the order of the split.

    Raises:
        NotEnoughReferencesError: Classes with too few usable annotations, each named with its number.
        UnknownNameError: No such split, or a class that the file does not have.
        ConfigError: `shots` or `min_area` is out of range, or both `split` and `class_names` are given.
        DataNotFoundError: There is no such file.
        AnnotationError: The file is malformed.
    """
    if shots < 1 or not 0 <= min_area < 1:
        raise ConfigError(
            f"expected at least 1 shot and a min_area from 0 to below 1, got {shots} and {min_area}",
            remedy="ask for 1 shot or more",
        )
    if split is not None and class_names is not None:
        raise ConfigError(f"got the split {split} and class names as well", remedy="give one of the two")
    dataset = annotations if isinstance(annotations, CocoDataset) else load_coco(annotations)
    if not dataset.categories:
        raise AnnotationError(f"{dataset.source} names no categories", remedy="name a file of annotated images")
    if split is not None:
        class_names = resolve_split(split)
    if class_names is None:
        class_names = [category.name for category in sorted(dataset.categories, key=lambda category: category.id)]
    dataset = dataset.select(class_names)
    pools = _pools(dataset, seed, min_area)
    chosen = _choose(pools, shots)
    few = [category for category in dataset.categories if len(chosen[category.id]) < (1 if allow_fewer else shots)]
    if few:
        listed = ", ".join(f"{category.name} ({len(chosen[category.id])})" for category in few[:20])
        raise NotEnoughReferencesError(
            f"{len(few)} classes of {dataset.source} have fewer images with a usable annotation than the {shots} asked "
            f"for: {listed}{', ...' if len(few) > 20 else ''}",
            remedy="leave out the classes that have none" if allow_fewer else "ask for fewer shots, or allow fewer",
        )
    picked = sorted((a for of_class in chosen.values() for a in of_class), key=lambda annotation: annotation.id)
    images = sorted({annotation.image_id for annotation in picked})
    return CocoDataset(
        tuple(dataset.images_by_id[image_id] for image_id in images), tuple(picked), dataset.categories, dataset.source
    )


class _Pool:
    """The candidates of one class in shuffled order, by image; each is checked when it is first looked at."""

    def __init__(self, candidates: list[Annotation], dataset: CocoDataset, min_area: float) -> None:
        self._images = dataset.images_by_id
        self._min_area = min_area
        self._by_image: dict[int, list[Annotation]] = {}
        for annotation in candidates:
            self._by_image.setdefault(annotation.image_id, []).append(annotation)
        self._usable: dict[int, Annotation | None] = {}

    def __len__(self) -> int:
        return len(self._by_image)

    def usable(self) -> Iterator[int]:
        """Yield the ids of images with a usable annotation, in shuffled order."""
        for image_id, candidates in self._by_image.items():
            if image_id not in self._usable:
                image = self._images[image_id]
                will_do = (a for a in candidates if _is_usable(a, image, self._min_area))
                self._usable[image_id] = next(will_do, None)
            if self._usable[image_id] is not None:
                yield image_id

    def annotation(self, image_id: int) -> Annotation:
        """Return the annotation that stands for the class in an image that `usable` gave."""
        annotation = self._usable[image_id]
        assert annotation is not None
        return annotation


def _pools(dataset: CocoDataset, seed: int, min_area: float) -> dict[int, _Pool]:
    by_class: dict[int, list[Annotation]] = {category.id: [] for category in dataset.categories}
    for annotation in dataset.annotations:
        by_class[annotation.category_id].append(annotation)
    for category_id, candidates in by_class.items():
        candidates.sort(key=lambda annotation: annotation.id)
        # Seeded by text, which is the same on all machines, and for each class by itself.
        random.Random(f"{seed} {category_id}").shuffle(candidates)
    return {category_id: _Pool(candidates, dataset, min_area) for category_id, candidates in by_class.items()}


def _choose(pools: dict[int, _Pool], shots: int) -> dict[int, list[Annotation]]:
    """Give each class `shots` images, each image to one class only where that is possible.

    This is a matching of images to classes that is grown along augmenting paths: a class that finds no free image
    takes one from a class that has another to go to. Rare classes go first, so that this seldom happens.
    """
    owner: dict[int, int] = {}
    taken: dict[int, set[int]] = {category_id: set() for category_id in pools}
    for category_id in sorted(pools, key=lambda category_id: (len(pools[category_id]), category_id)):
        for _ in range(shots):
            if not _take_one(category_id, pools, owner, taken):
                break
    for category_id, pool in pools.items():
        for image_id in pool.usable():  # These belong to other classes and are shared.
            if len(taken[category_id]) >= shots:
                break
            taken[category_id].add(image_id)
    return {
        category_id: [pools[category_id].annotation(i) for i in sorted(taken[category_id])] for category_id in pools
    }


def _take_one(category_id: int, pools: dict[int, _Pool], owner: dict[int, int], taken: dict[int, set[int]]) -> bool:
    came_by: dict[int, tuple[int, int] | None] = {category_id: None}  # class -> (class that asks it, for which image)
    queue = [category_id]
    for current in queue:
        for image_id in pools[current].usable():
            if image_id not in owner:
                _hand_over(current, image_id, came_by, owner, taken)
                return True
            if owner[image_id] not in came_by:
                came_by[owner[image_id]] = (current, image_id)
                queue.append(owner[image_id])
    return False


def _hand_over(
    current: int,
    image_id: int,
    came_by: dict[int, tuple[int, int] | None],
    owner: dict[int, int],
    taken: dict[int, set[int]],
) -> None:
    """Give `current` the free image, and what it gives up for it to the class that asked, and so on back."""
    step: tuple[int, int] | None = (current, image_id)
    while step is not None:
        current, image_id = step
        if image_id in owner:
            taken[owner[image_id]].remove(image_id)
        owner[image_id] = current
        taken[current].add(image_id)
        step = came_by[current]


def _is_usable(annotation: Annotation, image: ImageRecord, min_area: float) -> bool:
    if annotation.iscrowd or annotation.negative:
        return False
    x, y, width, height = annotation.bbox
    right, lower = image.width + _BORDER_TOLERANCE, image.height + _BORDER_TOLERANCE
    inside = min(x, y) >= -_BORDER_TOLERANCE and x + width <= right and y + height <= lower
    least = min_area * image.width * image.height
    if width < 1 or height < 1 or not inside or width * height < least:
        return False
    if annotation.segmentation is None:
        return True
    try:
        pixels = int(decode_mask(annotation, image.height, image.width).sum())
    except (AnnotationError, MaskSizeError):
        return False
    return pixels >= max(least, 1)
