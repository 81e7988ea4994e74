"""YOLO's labels: a text file for each image, a row for each object, in parts of the image's width and height.

A row is `class x y width height`, the box by its center, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon. The names of the
classes are in a YAML (`names:`), or one a line in `classes.txt` or `obj.names`.

Source: the dataset formats of Ultralytics' documentation.
"""

from collections.abc import Sequence
from pathlib import Path

from no_time_to_train.data.coco import shown_value
from no_time_to_train.data.image_files import image_endings
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.data.references.builder import LabeledImages, RecordBuilder, number_in
from no_time_to_train.errors import AnnotationError, DataNotFoundError
from no_time_to_train.io.paths import read_regular
from no_time_to_train.io.strict_yaml import read_yaml

NAME_LISTS = ("classes.txt", "obj.names")
_REMEDY = "a row is: class x y width height, or class and the corners x1 y1 x2 y2 x3 y3 ..., from 0 to 1"


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of the classes from a YAML or a list.

    Raises:
        NoTimeToTrainError: The file cannot be read, or `names` are not names.
    """
    if path.name in NAME_LISTS:
        return tuple(name.strip() for name in _lines(path) if name.strip())
    names = read_yaml(path).get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise AnnotationError(
            f"{path}: expected names as a list, got {shown_value(names)}", remedy="name each class once"
        )
    return tuple(map(str, names))


def label_files(root: Path, files: Sequence[Path]) -> list[Path]:
    """Return which of a folder's files are labels: those under `labels`, or those next to an image of their name."""
    texts = [path for path in files if path.suffix == ".txt" and path.name not in NAME_LISTS]
    under = [path for path in texts if "labels" in path.relative_to(root).parts[:-1]]
    if under:
        return under
    images = {path.with_suffix("") for path in files if path.suffix.lower() in image_endings()}
    return [path for path in texts if path.with_suffix("") in images]


def read_yolo(names_file: Path, labels: Sequence[Path], root: Path, images: Path | None = None) -> LabeledImages:
    """Read a folder of YOLO's labels.

    The image of `labels/.../1.txt` is `images/.../1.*`, or the image of that name next to it.

    Raises:
        NoTimeToTrainError: A file is malformed, or an image is missing.
    """
    names = read_class_names(names_file)
    builder = RecordBuilder(root, images)
    builder.files.append(names_file)
    known: dict[Path, dict[str, list[Path]]] = {}
    for path in labels:
        rows = _rows(path)
        if not rows:
            continue  # An image without an object.
        record = builder.image(_image_of(path, root, images, known), str(path))
        for place, index, numbers in rows:
            if index >= len(names):
                raise AnnotationError(
                    f"{place}: class {index}, and {names_file} names {len(names)} classes, from 0 on",
                    remedy="name all classes there",
                )
            _add_row(builder, record, names[index], numbers, place, negative=False)
        builder.files.append(path)
    return builder.build(str(root), names)


def add_rows(builder: RecordBuilder, record: ImageRecord, path: Path, label: str, *, negative: bool = False) -> None:
    """Add all objects of a label file as objects of one class.

    Raises:
        AnnotationError: It has no row, or rows of several classes.
    """
    builder.files.append(path)
    rows = _rows(path)
    if len({index for _, index, _ in rows}) != 1:
        got = "no row" if not rows else f"rows of classes {', '.join(sorted({str(index) for _, index, _ in rows}))}"
        raise AnnotationError(
            f"{path}: expected rows of one class, {label!r}, got {got}",
            remedy="leave the other objects out, or give the folder as a YOLO dataset with data.yaml",
        )
    for place, _, numbers in rows:
        _add_row(builder, record, label, numbers, place, negative)


def _rows(path: Path) -> list[tuple[str, int, list[float]]]:
    """Return the place, class and numbers of each row."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        parts, place = line.split(), f"{path}: line {number}"
        if not parts:
            continue
        if not (parts[0].isascii() and parts[0].isdigit() and len(parts[0]) < 10):
            raise AnnotationError(f"{place}: expected the number of a class, got {parts[0]!r:.40}", remedy=_REMEDY)
        if len(parts) != 5 and (len(parts) < 7 or len(parts) % 2 == 0):
            raise AnnotationError(f"{place}: expected 5 numbers, or 7, 9, 11 ..., got {len(parts)}", remedy=_REMEDY)
        rows.append((place, int(parts[0]), [number_in(part, "coordinates", place) for part in parts[1:]]))
    return rows


def _add_row(
    builder: RecordBuilder, record: ImageRecord, label: str, numbers: Sequence[float], place: str, negative: bool
) -> None:
    if max(map(abs, numbers)) > 1.5:  # What is a little above 1 is judged by its pixels.
        raise AnnotationError(f"{place}: expected parts of the image's size, got {max(numbers):g}", remedy=_REMEDY)
    if len(numbers) == 4:
        x, y, width, height = numbers
        box = ((x - width / 2) * record.width, (y - height / 2) * record.height)
        size = width * record.width, height * record.height
        builder.add_box(record, label, (*box, *size), place, negative=negative)
        return
    sides = (record.width, record.height)
    corners = [value * sides[index % 2] for index, value in enumerate(numbers)]
    builder.add_polygon(record, label, corners, place, negative=negative)


def _image_of(path: Path, root: Path, images: Path | None, known: dict[Path, dict[str, list[Path]]]) -> Path:
    folders = [path.parent]
    parts = list(path.relative_to(root).parts[:-1])
    if "labels" in parts:
        last = len(parts) - 1 - parts[::-1].index("labels")
        folders.insert(0, root.joinpath(*parts[:last], "images", *parts[last + 1 :]))
        if images is not None:
            folders = [images.joinpath(*parts[last + 1 :]), images]
    elif images is not None:
        folders = [images]
    for folder in folders:
        if folder not in known:
            known[folder] = _images_in(folder)
        found = known[folder].get(path.stem, [])
        if len(found) > 1:
            raise AnnotationError(
                f"{path} may be of {found[0]} or of {found[1].name}", remedy="keep one image of each name"
            )
        if found:
            return found[0]
    raise DataNotFoundError(
        f"there is no image of {path} in {folders[0]}",
        remedy="put it there, or name the folder of the images (images=..., --reference-images DIR)",
    )


def _images_in(folder: Path) -> dict[str, list[Path]]:
    """Return the images of a folder by their names without ending."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.suffix.lower() in image_endings():
            found.setdefault(entry.stem, []).append(entry)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return read_regular(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not text in UTF-8", remedy="save it as UTF-8") from error
