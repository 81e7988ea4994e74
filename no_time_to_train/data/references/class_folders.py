"""A folder of references by class: `apple/1.jpg`, what it shows next to it, and `_not/apple/2.jpg` for negatives."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from no_time_to_train.data.coco import read_annotation_json
from no_time_to_train.data.image_files import image_endings, list_images
from no_time_to_train.data.images import load_mask
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.data.references.builder import LabeledImages, RecordBuilder
from no_time_to_train.data.references.labelme import add_shapes, is_labelme, size_in
from no_time_to_train.data.references.yolo import add_rows
from no_time_to_train.errors import AnnotationError, EmptyClassError
from no_time_to_train.io.messages import first_of

log = logging.getLogger(__name__)

NEGATIVES = "_not"
# Names of folders by which tools sort files; a class is called otherwise.
_NO_CLASSES = frozenset({"annotations", "images", "jpegimages", "labels", "masks"})
_MASK_ENDING = "_mask"
_MOST_COLORS = 256  # A mask of more is a photograph.
_LOSSY = (".jpg", ".jpeg", ".jfif", ".jpe")


def is_by_class(root: Path) -> bool:
    """Return whether a folder holds no image itself, and folders of images, which are called as classes may be."""
    if any(entry.suffix.lower() in image_endings() and entry.is_file() for entry in root.iterdir()):
        return False
    folders = _folders(root)
    return not any(folder.name.lower() in _NO_CLASSES for folder in folders) and any(map(list_images, folders))


def read_class_folders(root: Path) -> LabeledImages:
    """Read references from a folder of folders, whose names are the classes.

    An image may have, next to it, a mask of the object (`1.png` of `1.jpg`, or `1_mask.png`; not zero is the object), a
    LabelMe file (`1.json`) or YOLO's label (`1.txt`). An image without one counts as a close crop of the object.

    Raises:
        EmptyClassError: A folder has no image.
        NoTimeToTrainError: A file cannot be read, or it is not clear what belongs to an image.
    """
    builder = RecordBuilder(root)
    for folder in _folders(root):
        if folder.name == NEGATIVES:
            loose = [entry for entry in folder.iterdir() if entry.suffix.lower() in image_endings()]
            if loose or not _folders(folder):
                got = f"images such as {loose[0].name}" if loose else "no folder"
                raise AnnotationError(
                    f"{folder}: expected a folder for each class that is taken for another thing, got {got}",
                    remedy=f"put the images into {NEGATIVES}/CLASS/",
                )
            for inner in _folders(folder):
                _read_class(builder, inner, negative=True)
        else:
            _read_class(builder, folder, negative=False)
    return builder.build(str(root))


def _folders(root: Path) -> list[Path]:
    """Return the folders in a folder, the one of negatives last."""
    found = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: (entry.name == NEGATIVES, entry))


def _read_class(builder: RecordBuilder, folder: Path, *, negative: bool) -> None:
    images = sorted(list_images(folder).values())
    masks = _masks_of(images)
    taken = {mask for of_image in masks.values() for mask in of_image}
    used: set[Path] = set()
    shown = [path for path in images if path not in taken]
    if not shown:
        raise EmptyClassError(f"{folder} has no image", remedy="put images of the class there, or remove the folder")
    for path in shown:
        others = [path.with_suffix(ending) for ending in (".json", ".txt")]
        beside = [*masks.get(path, []), *(other for other in others if other.is_file())]
        twins = [other for other in shown if other != path and other.with_suffix("") == path.with_suffix("")]
        if len(beside) > 1 or (beside and twins):
            raise AnnotationError(
                f"{path}: expected one mask or annotation of one image, got "
                f"{first_of([str(entry.name) for entry in (*beside, *twins)])}",
                remedy="keep one of them, under the image's name",
            )
        used.update(beside)
        record = builder.image(path, str(folder))
        if beside:
            _add_beside(builder, record, beside[0], folder.name, negative=negative)
        else:
            builder.add_close_crop(record, folder.name, str(path), negative=negative)
    unused = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".txt") and path not in used]
    if unused:
        log.warning("not read, since there is no image of the name: %s", first_of([str(path) for path in unused]))


def _masks_of(images: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return which of a folder's images are masks of which.

    Raises:
        AnnotationError: A file is called a mask, and there is no image of its name.
    """
    by_stem: dict[Path, list[Path]] = {}
    for path in images:
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    found: dict[Path, list[Path]] = {}
    for path in images:
        of_name = path.stem.endswith(_MASK_ENDING)
        stem = path.with_name(path.stem.removesuffix(_MASK_ENDING)) if of_name else path.with_suffix("")
        owners = [other for other in by_stem.get(stem, []) if other != path]
        if of_name and len(owners) > 1:
            # 1.jpg with its masks 1.png and 1_mask.png, of which one has to go.
            owners = [other for other in owners if other.suffix.lower() != ".png"]
        elif not of_name:
            owners = [other for other in owners if other.suffix.lower() != ".png"]
            if path.suffix.lower() != ".png":
                continue
        if of_name and not owners:
            raise AnnotationError(
                f"{path} is called a mask, and there is no image {stem.name} next to it",
                remedy="name the mask as its image, or the image without _mask",
            )
        for owner in owners:
            found.setdefault(owner, []).append(path)
    return found


def _add_beside(builder: RecordBuilder, record: ImageRecord, path: Path, label: str, *, negative: bool) -> None:
    if path.suffix == ".txt":
        add_rows(builder, record, path, label, negative=negative)
    elif path.suffix == ".json":
        document = read_annotation_json(path)
        if not is_labelme(document) or not document["shapes"]:
            raise AnnotationError(
                f"{path}: expected LabelMe's JSON with shapes", remedy="draw the object in LabelMe, or remove the file"
            )
        builder.image(builder.base / record.file_name, str(path), size_in(document))
        labels = [shape.get("label") for shape in document["shapes"] if isinstance(shape, dict)]
        other = sorted({name for name in labels if isinstance(name, str) and name.casefold() != label.casefold()})
        if other and not negative:
            raise AnnotationError(
                f"{path}: expected shapes of the folder's class {label!r}, got {first_of(other)}",
                remedy=f"correct the label, or move the image; if {label} is not a class, name the folder itself",
            )
        add_shapes(builder, record, path, document, label, negative=negative)
    else:
        builder.files.append(path)
        builder.add_mask(record, label, _mask(path), str(path), negative=negative)


def _mask(path: Path) -> Bool[np.ndarray, "H W"]:
    if path.suffix.lower() in _LOSSY:
        raise AnnotationError(f"{path}: JPEG blurs a mask", remedy="save it as PNG")
    mask = load_mask(path)
    with Image.open(path) as image:
        photograph = image.mode not in ("1", "L", "P") and image.getcolors(_MOST_COLORS) is None
    if photograph or mask.all():
        got = f"more than {_MOST_COLORS} colors" if photograph else "no pixel of 0"
        raise AnnotationError(
            f"{path} counts as a mask by its name, and has {got}",
            remedy="give a mask that is 0 around the object; if it is another photograph, rename it",
        )
    return mask
