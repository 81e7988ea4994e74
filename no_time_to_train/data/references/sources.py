"""References in the forms in which people have them: COCO JSON, folders, typed text; all become the same records."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from no_time_to_train.data.coco import load_coco, read_annotation_json, write_coco
from no_time_to_train.data.image_files import image_endings
from no_time_to_train.data.records import Annotation, Category, CocoDataset, ImageRecord
from no_time_to_train.data.references.builder import LabeledImages
from no_time_to_train.data.references.class_folders import is_by_class, read_class_folders
from no_time_to_train.data.references.cvat import read_cvat
from no_time_to_train.data.references.labelme import is_labelme, read_labelme
from no_time_to_train.data.references.sets import PICKLE_SUFFIXES
from no_time_to_train.data.references.shorthand import is_typed, read_typed
from no_time_to_train.data.references.voc import read_voc
from no_time_to_train.data.references.xml_files import read_xml
from no_time_to_train.data.references.yolo import NAME_LISTS, label_files, read_yolo
from no_time_to_train.errors import AnnotationError, ConfigError, DataNotFoundError
from no_time_to_train.io.messages import first_of
from no_time_to_train.io.paths import is_file, is_folder

log = logging.getLogger(__name__)

Sources = str | Path | Sequence[str | Path]

FORMS = (
    "a COCO JSON, a folder by class (refs/apple/1.jpg), a folder of LabelMe, YOLO, Pascal VOC or CVAT for images, or "
    "IMAGE:CLASS@x,y,width,height"
)

# Forms of which a folder has one file.
_ONE_FILE = ("COCO JSON", "CVAT for images", "YOLO")


def read_references(sources: Sources, images: Path | str | None = None, *, negative: bool = False) -> LabeledImages:
    """Read references of any form.

    Args:
        sources: One or several of: a COCO JSON file, or a folder with exactly one and its images; a folder with a
            folder of images for each class; a folder of annotations by LabelMe, YOLO, Pascal VOC or CVAT for images;
            `IMAGE:CLASS@x,y,width,height` or `IMAGE:CLASS@x,y`, a box or a point in pixels.
        images: The folder of the images of annotation files; they are looked for near these if it is not given.
        negative: All of them show what classes are taken for and are not.

    Returns:
        The records. Ids are those of the file for a single COCO JSON.

    Raises:
        DataNotFoundError: A source, or an image that it names, is missing.
        AnnotationError: A file is malformed, or a folder is of no known form, or of several.
        ConfigError: There is no source, or a pickle.
        NoTimeToTrainError: An image cannot be read, or is of another size than its annotations say.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    if not listed:
        raise ConfigError("no references were given", remedy=f"give {FORMS}")
    folder = None if images is None else Path(images)
    if folder is not None and not is_folder(folder):
        raise DataNotFoundError(f"there is no folder {folder} of images of references", remedy="check the path")
    found = [_read(source, folder) for source in listed]
    whole = found[0] if len(found) == 1 else _merged(found)
    if negative:
        annotations = tuple(replace(annotation, negative=True) for annotation in whole.dataset.annotations)
        whole = replace(whole, dataset=replace(whole.dataset, annotations=annotations))
    return whole


def write_references(found: LabeledImages, path: Path) -> None:
    """Write references as COCO JSON, whose file names are relative to it, so that it can be read without a folder.

    Raises:
        ConfigError: `path` is one of the files that were read.
        OutputError: The file cannot be written.
    """
    read = [other for other in found.files if os.path.realpath(other) == os.path.realpath(path)]
    if read:
        raise ConfigError(
            f"{path} is one of the references' files, which would be replaced", remedy="name another file"
        )
    start = os.path.realpath(path.parent)
    images = tuple(
        replace(record, file_name=_relative(found.images / record.file_name, start)) for record in found.dataset.images
    )
    write_coco(replace(found.dataset, images=images), path)


def _read(source: str | Path, images: Path | None) -> LabeledImages:
    path = Path(source)
    if is_folder(path):
        return _read_folder(path, images)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ConfigError(
            f"the pickle {path} holds only ids, and the annotations that they are of were not given",
            remedy="make the set anew with: ntt sample-references",
        )
    if path.suffix.lower() == ".xml" and is_file(path):
        root = path.parent.parent if path.parent.name == "Annotations" else path.parent
        return _read_xml([(path, read_xml(path))], root, images)
    if (path.suffix.lower() in (".yaml", ".yml") or path.name in NAME_LISTS) and is_file(path):
        return read_yolo(path, _look_into(path.parent).labels, path.parent, images)
    if path.suffix.lower() in image_endings() and is_file(path):
        raise AnnotationError(
            f"{path} is an image, and what it shows is not said", remedy=f"write {path.name}:CLASS@x,y,width,height"
        )
    if is_typed(str(source)):
        return read_typed(str(source), images)
    if not is_file(path):
        raise DataNotFoundError(f"there are no references {str(source)!r:.200}", remedy=f"give {FORMS}")
    document = read_annotation_json(path)
    if is_labelme(document):
        return read_labelme([(path, document)], path.parent, images)
    return _read_coco(path, images, [path.parent, path.parent / "images"])


def _read_coco(path: Path, images: Path | None, near: Sequence[Path]) -> LabeledImages:
    """Read COCO JSON; without a folder of images, the first one near it that has them all."""
    dataset = load_coco(path)
    if images is not None:
        return LabeledImages(dataset, images, (path,))
    used = {annotation.image_id for annotation in dataset.annotations}
    names = [image.file_name for image in dataset.images if image.id in used]
    missing = ""
    for folder in near:
        lacking = next((name for name in names if not is_file(folder / name)), None)
        if lacking is None:
            return LabeledImages(dataset, folder, (path,))
        missing = missing or lacking
    raise DataNotFoundError(
        f"{path} names the image {missing!r:.120}, which is not in {' or '.join(map(str, dict.fromkeys(near)))}",
        remedy="name the folder of the images (images=..., --reference-images DIR)",
    )


@dataclass
class _Content:
    """What a folder holds, by form."""

    files: list[Path]
    coco: list[Path] = field(default_factory=list)
    labelme: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    xml: dict[str, list[tuple[Path, Element]]] = field(default_factory=dict)
    names: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def forms(self) -> dict[str, list[Path]]:
        """Return the forms that were recognized, each with the files that it was recognized by."""
        found = {
            "COCO JSON": self.coco,
            "CVAT for images": [path for path, _ in self.xml.get("annotations", [])],
            "Pascal VOC": [path for path, _ in self.xml.get("annotation", [])],
            "YOLO": self.names if self.labels else [],
            "LabelMe": [path for path, _ in self.labelme],
        }
        return {name: paths for name, paths in found.items() if paths}


def _read_folder(root: Path, images: Path | None) -> LabeledImages:
    content = _look_into(root)
    forms = content.forms()
    # LabelMe's files may be next to images that are sorted by class.
    if forms.keys() <= {"LabelMe"} and is_by_class(root) and not _is_apart(root, content):
        return read_class_folders(root)
    if len(forms) != 1:
        raise _not_clear(root, content, forms)
    ((form, paths),) = forms.items()
    if len(paths) > 1 and form in _ONE_FILE:
        names = first_of([str(path.relative_to(root)) for path in paths])
        raise AnnotationError(
            f"{root} holds {len(paths)} files that could be its annotations: {names}", remedy="name one of them"
        )
    if content.others and form in ("LabelMe", "Pascal VOC"):
        log.warning("%s: not read, as of another form: %s", root, first_of([path.name for path in content.others]))
    if content.coco:
        path = content.coco[0]
        name = path.stem.removeprefix("instances_")
        near = [path.parent, root, root / "images", root / "images" / name, root / name]
        return _read_coco(path, images, near)
    if content.xml:
        return _read_xml(next(iter(content.xml.values())), root, images)
    if form == "YOLO":
        return read_yolo(content.names[0], content.labels, root, images)
    return read_labelme(content.labelme, root, images)


def _look_into(root: Path) -> _Content:
    paths: list[Path] = []
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # Links may lead in circles.
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    content = _Content(paths)
    for path in paths:
        ending = path.suffix.lower()
        if ending == ".json":
            document = read_annotation_json(path)
            if is_labelme(document):
                document.pop("imageData", None)  # The image once more.
                content.labelme.append((path, document))
            elif isinstance(document, dict) and {"images", "categories"} <= document.keys():
                content.coco.append(path)
            else:
                content.others.append(path)
        elif ending == ".xml":
            tree = read_xml(path)
            if tree.tag in ("annotation", "annotations"):
                content.xml.setdefault(tree.tag, []).append((path, tree))
            else:
                content.others.append(path)
        elif path.name in NAME_LISTS or (path.parent == root and ending in (".yaml", ".yml")):
            content.names.append(path)
    content.labels = label_files(root, paths)
    # A YAML takes precedence over a list, and one in the named folder over one among the labels, as of labelImg.
    for first in (lambda path: path.name not in NAME_LISTS, lambda path: path.parent == root):
        content.names = [path for path in content.names if first(path)] or content.names
    return content


def _is_apart(root: Path, content: _Content) -> bool:
    """Return whether there are LabelMe files in a folder of their own, or in the named one."""
    with_images = {path.parent for path in content.files if path.suffix.lower() in image_endings()}
    return any(path.parent not in with_images for path, _ in content.labelme)


def _read_xml(documents: Sequence[tuple[Path, Element]], root: Path, images: Path | None) -> LabeledImages:
    path, tree = documents[0]
    if tree.tag == "annotations":
        return read_cvat(path, tree, root, images)
    if tree.tag != "annotation":
        raise AnnotationError(
            f"{path}: expected <annotation> (Pascal VOC) or <annotations> (CVAT), got <{tree.tag:.40}>",
            remedy=f"give {FORMS}",
        )
    return read_voc(documents, root, images)


def _not_clear(root: Path, content: _Content, forms: dict[str, list[Path]]) -> AnnotationError:
    if forms:
        listed = " and ".join(f"{name} ({paths[0].name})" for name, paths in forms.items())
        return AnnotationError(
            f"{root} holds references of several forms: {listed}", remedy="name one of the files, or move the others"
        )
    endings = Counter(path.suffix.lower() or "no ending" for path in content.files)
    held = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) or "no files"
    remedy = f"give {FORMS}"
    if any("labels" in path.relative_to(root).parts for path in content.labels):
        remedy = "YOLO's labels need the names of their classes next to them, in data.yaml or classes.txt"
    elif any(path.parent == root and path.suffix.lower() in image_endings() for path in content.files):
        remedy = f"put images into folders by class, as in {root}/apple/1.jpg, or " + remedy
    return AnnotationError(f"{root} holds {held}, which are references of no known form", remedy=remedy)


def _merged(parts: Sequence[LabeledImages]) -> LabeledImages:
    """Join references: classes of one name are one class, images of one path are one image."""
    base = _common_folder([part.images for part in parts])
    images: dict[str, ImageRecord] = {}
    categories: dict[str, Category] = {}
    annotations: list[Annotation] = []
    for part in parts:
        for category in part.dataset.categories:
            categories.setdefault(category.name, Category(len(categories) + 1, category.name))
        for annotation in part.dataset.annotations:
            record = part.dataset.images_by_id[annotation.image_id]
            name = _relative(part.images / record.file_name, base)
            joined = images.setdefault(name, replace(record, id=len(images) + 1, file_name=name))
            if (joined.width, joined.height) != (record.width, record.height):
                raise AnnotationError(
                    f"{part.dataset.source}: {name} is of {record.width}x{record.height} pixels, and another source "
                    f"says {joined.width}x{joined.height}",
                    remedy="correct the annotations' width and height",
                )
            label = part.dataset.categories_by_id[annotation.category_id].name
            number, category_id = len(annotations) + 1, categories[label].id
            annotations.append(replace(annotation, id=number, image_id=joined.id, category_id=category_id))
    source = first_of([part.dataset.source for part in parts], most=3)
    dataset = CocoDataset(tuple(images.values()), tuple(annotations), tuple(categories.values()), source)
    return LabeledImages(dataset, Path(base), tuple(path for part in parts for path in part.files))


def _common_folder(folders: Sequence[Path]) -> str:
    real = [os.path.realpath(folder) for folder in folders]
    try:
        return os.path.commonpath(real)
    except ValueError:  # Several drives of Windows.
        return real[0]


def _relative(path: Path, start: str) -> str:
    """Return a file's path as seen from a folder, with `/`; the whole path where none leads there."""
    # A file may be a link. Folders may not: `..` leads out of where they lead to.
    real = str(Path(os.path.realpath(path.parent), path.name))
    try:
        return Path(os.path.relpath(real, start)).as_posix()
    except ValueError:
        return Path(real).as_posix()
