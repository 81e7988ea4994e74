"""The embedded synthetic few-shot dataset: real JPEG files and COCO JSON, written once.

Targets hold objects of new classes, and of known ones that are not annotated; references show one object each. Image i
of a part depends on the seed, the part and i alone, so that more images leave the first ones as they are.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from no_time_to_train.configs.limits import MOST_IMAGES, check_number
from no_time_to_train.data.masks import encode_mask
from no_time_to_train.data.records import COCO_HEADER
from no_time_to_train.data.synthetic.classes import BASE_CLASSES, NOVEL_CLASSES, ShapeClass
from no_time_to_train.data.synthetic.scenes import Scene, SceneInstance, check_drawable, render_scene
from no_time_to_train.errors import ConfigError, OutputError
from no_time_to_train.io.atomic import atomic_folder, refuse_others, write_text_atomic

__all__ = [
    "BASE_CLASSES",
    "NOVEL_CLASSES",
    "Scene",
    "SceneInstance",
    "ShapeClass",
    "ShapesPaths",
    "render_scene",
    "write_shapes",
]

ClassSet = Literal["novel", "base", "all"]
# A scene, and those of its instances that are annotated; drawn by a generator for an index.
Drawn = tuple[Scene, tuple[SceneInstance, ...]]
Draw = Callable[[np.random.Generator, int], Drawn]

# Raised whenever the same parameters would give other files.
GENERATOR_VERSION = 2
JPEG_QUALITY = 95
MANIFEST = "manifest.json"
_MOST_OCCLUDED = 0.2
_PARTS = {"references": 1, "targets": 2, "base_train": 3}
_OWN = re.compile(rf"{MANIFEST}|({'|'.join(_PARTS)})\.json|images/({'|'.join(_PARTS)})/\d+\.jpg")
_CLASS_SETS: dict[str, tuple[ShapeClass, ...]] = {
    "novel": NOVEL_CLASSES,
    "base": BASE_CLASSES,
    "all": (*BASE_CLASSES, *NOVEL_CLASSES),
}


@dataclass(frozen=True)
class ShapesPaths:
    """Where a written dataset lies.

    Attributes:
        root: Its folder.
        references_json: One annotation of one class for each reference image.
        targets_json: All visible objects of the classes looked for.
        base_train_json: Annotated images of the base classes, for training; None if none were asked for.
        image_dir: The folder that the files' names are relative to.
    """

    root: Path
    references_json: Path
    targets_json: Path
    base_train_json: Path | None
    image_dir: Path


@dataclass(frozen=True)
class _Parameters:
    """All that decides the files."""

    seed: int
    size: int
    shots: int
    num_targets: int
    num_base_train: int
    distractors: bool
    classes: ClassSet
    version: int = GENERATOR_VERSION


def write_shapes(
    root: Path | str,
    *,
    seed: int = 0,
    size: int = 256,
    shots: int = 5,
    num_targets: int = 40,
    num_base_train: int = 0,
    distractors: bool = True,
    classes: ClassSet = "novel",
) -> ShapesPaths:
    """Write the dataset, or find it written.

    The folder is made beside its place and renamed, so that a folder with a manifest is whole. Another dataset of this
    function in its place is replaced, also a damaged one; a folder that holds anything else is not touched.

    Args:
        root: Folder to write.
        seed: The same seed gives the same files.
        size: Side of the square images in pixels, at least 32.
        shots: References a class.
        num_targets: Target images.
        num_base_train: Annotated images of the base classes.
        distractors: Draw objects of base classes among the targets' too, which are not annotated.
        classes: Which classes are looked for.

    Raises:
        ConfigError: A number is out of range, or an unknown set of classes is named.
        OutputError: `root` is in use for something else, or cannot be written.
    """
    if min(shots, num_targets) < 1 or num_base_train < 0 or classes not in _CLASS_SETS:
        raise ConfigError(
            f"cannot write {shots} shots and {num_targets} targets of the classes {classes!r}",
            remedy=f"give at least one shot and one target, and classes from {', '.join(_CLASS_SETS)}",
        )
    for name, value in (("shots", shots), ("num_targets", num_targets), ("num_base_train", num_base_train)):
        check_number(name, value, 0, MOST_IMAGES, "every one is an image that is drawn and written")
    check_drawable(size, seed)
    root = Path(root)
    parameters = _Parameters(seed, size, shots, num_targets, num_base_train, distractors, classes)
    paths = ShapesPaths(
        root,
        root / "references.json",
        root / "targets.json",
        root / "base_train.json" if num_base_train else None,
        root / "images",
    )
    if _is_written(root, parameters):
        return paths
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / MANIFEST).is_file())):
        raise OutputError(f"{root} holds something else than this dataset", remedy="name a new or an empty folder")
    refuse_others(root, _OWN, "this dataset")
    with atomic_folder(root) as beside:
        _write_parts(beside, parameters)
    return paths


def _is_written(root: Path, parameters: _Parameters) -> bool:
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        return bool(manifest["parameters"] == asdict(parameters)) and all(
            hashlib.sha256((root / name).read_bytes()).hexdigest() == digest
            for name, digest in manifest["sha256"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_parts(folder: Path, parameters: _Parameters) -> None:
    looked_for = _CLASS_SETS[parameters.classes]
    # Objects that are looked for are not distractors.
    known = BASE_CLASSES if parameters.distractors and parameters.classes == "novel" else ()

    def reference(rng: np.random.Generator, index: int) -> Drawn:
        return _reference_scene(rng, looked_for, index % len(looked_for), parameters.size)

    def target(rng: np.random.Generator, index: int) -> Drawn:
        scene = render_scene(rng, looked_for, size=parameters.size, distractors=known)
        return scene, scene.instances

    def base_train(rng: np.random.Generator, index: int) -> Drawn:
        scene = render_scene(rng, BASE_CLASSES, size=parameters.size)
        return scene, scene.instances

    parts: list[tuple[str, Sequence[ShapeClass], int, Draw]] = [
        ("references", looked_for, parameters.shots * len(looked_for), reference),
        ("targets", looked_for, parameters.num_targets, target),
    ]
    if parameters.num_base_train:
        parts.append(("base_train", BASE_CLASSES, parameters.num_base_train, base_train))
    digests: dict[str, str] = {}
    for name, classes, count, draw in parts:
        document = _write_part(folder, name, classes, count, draw, parameters)
        (folder / f"{name}.json").write_text(json.dumps(document) + "\n")
        written = [f"{name}.json", *(f"images/{image['file_name']}" for image in document["images"])]
        digests |= {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in written}
    write_text_atomic(folder / MANIFEST, json.dumps({"parameters": asdict(parameters), "sha256": digests}) + "\n")


def _write_part(
    folder: Path, part: str, classes: Sequence[ShapeClass], count: int, draw: Draw, parameters: _Parameters
) -> dict[str, Any]:
    """Draw the images of a part and return its COCO document."""
    (folder / "images" / part).mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        scene, instances = draw(np.random.default_rng([parameters.seed, _PARTS[part], index]), index)
        name = f"{part}/{index:05d}.jpg"
        Image.fromarray(scene.image).save(folder / "images" / name, quality=JPEG_QUALITY, subsampling=0)
        images.append({"id": index + 1, "file_name": name, "width": parameters.size, "height": parameters.size})
        annotations += [_annotation(instance, index + 1) for instance in instances]
    for identifier, annotation in enumerate(annotations, start=1):
        annotation["id"] = identifier
    categories = [{"id": index, "name": entry.name} for index, entry in enumerate(classes, start=1)]
    return {**COCO_HEADER, "images": images, "annotations": annotations, "categories": categories}


def _reference_scene(rng: np.random.Generator, classes: Sequence[ShapeClass], class_index: int, size: int) -> Drawn:
    """Draw scenes until one shows an object of the class well, and annotate the largest such object alone."""
    while True:
        scene = render_scene(rng, classes, size=size, num_objects=(1, 3))
        shown = [
            instance
            for instance in scene.instances
            if instance.class_index == class_index and instance.occluded < _MOST_OCCLUDED
        ]
        if shown:
            return scene, (max(shown, key=lambda instance: int(instance.mask.sum())),)


def _annotation(instance: SceneInstance, image_id: int) -> dict[str, Any]:
    rows, columns = instance.mask.nonzero()
    x, y = int(columns.min()), int(rows.min())
    return {
        "image_id": image_id,
        "category_id": instance.class_index + 1,
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
        "area": int(instance.mask.sum()),
        "iscrowd": 0,
        "segmentation": encode_mask(instance.mask),
    }
