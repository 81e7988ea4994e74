"""What was found as a page to look at: one file that needs nothing else, drawn from the journal's entries."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from no_time_to_train import __version__
from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.run import Predictor, RunSummary
from no_time_to_train.batch.thumbnails import Picture, picture_of
from no_time_to_train.data.coco import Annotation
from no_time_to_train.data.datasets import ReferenceDataset, ReferenceItem
from no_time_to_train.data.drawing import PALETTE
from no_time_to_train.data.image_files import real_path
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import (
    Sources,
    negative_references,
    read_references,
    reference_set,
    reference_window,
)
from no_time_to_train.errors import ImageReadError
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.io.paths import path_as_named
from no_time_to_train.results.html import page_templates

_SIDE, _REFERENCE_SIDE = 640, 240
# References are shown with this much around them, in longer sides of their boxes.
_AROUND = 1.6
_SHOWN_OF_A_CLASS = 12


@dataclass(frozen=True)
class ReferenceFiles:
    """Where a run's references came from, to be shown.

    Attributes:
        references: As `read_references` takes them.
        images: Folder of their images; None looks near the annotation files.
        negatives: The same of negative references.
    """

    references: Sources
    images: Path | None = None
    negatives: Sources | None = None


@dataclass(frozen=True)
class ShownReference:
    """A reference with its picture.

    Attributes:
        picture: The object and what is around it.
        outline: Its mask, as an SVG path.
        file_name: Of its image.
        negative: Whether it shows what the class is not.
        drawn: Whether its mask was drawn by the models, from its box.
    """

    picture: Picture
    outline: str
    file_name: str
    negative: bool
    drawn: bool


@dataclass(frozen=True)
class ShownClass:
    """A class: how many references it has, the pictures of some, and how much was found.

    Attributes:
        name: As in the references.
        colour: Its place in the palette.
        positive: How many references show it.
        negative: How many show what it is not.
        found: How many instances were found.
        pictures: Of the first references.
    """

    name: str
    colour: int
    positive: int
    negative: int
    found: int
    pictures: tuple[ShownReference, ...]


@dataclass(frozen=True)
class ShownInstance:
    """An instance: place of its class, score, outline and box in the picture's units."""

    label: int
    colour: int
    name: str
    score: float
    outline: str
    box: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class ShownImage:
    """A target: name, size, and what was found, best first; no picture where the file cannot be read any more."""

    name: str
    width: int
    height: int
    picture: Picture | None
    instances: tuple[ShownInstance, ...]
    classes: Mapping[str, int]


def write_report(
    path: Path,
    predictor: Predictor,
    outcome: RunSummary,
    images: Sequence[InputImage],
    *,
    run: str,
    min_score: float,
    references: ReferenceFiles | None = None,
    settings: Sequence[Path] = (),
) -> Path:
    """Write the page of a run.

    It depends on the images, the references and the journal's entries alone: a run that was interrupted and went on
    gives the same file as one that was not. Paths are told within the folders that were named; nothing is told of the
    machine.

    Args:
        path: The file to write, whole or not at all.
        predictor: With its references.
        outcome: What came of the run.
        images: All that were looked at.
        run: The run's name, as the journal has it.
        min_score: Instances of a lower score were left out.
        references: To be shown; None where they came from a memory, which has no pictures.
        settings: The YAMLs that the models were taken from.

    Returns:
        `path`.

    Raises:
        OutputError: The file cannot be written.
        NoTimeToTrainError: A reference cannot be read any more.
    """
    palette = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in PALETTE]
    names = predictor.class_names
    found = Counter(instance["category"] for entry in outcome.entries for instance in entry["instances"])
    pictures = {} if references is None else _reference_pictures(references, names, predictor)
    counts = Counter((label, negative) for label, _, negative in predictor.references)
    classes = [
        ShownClass(
            name=name,
            colour=index % len(palette),
            positive=counts[name, False],
            negative=counts[name, True],
            found=found[name],
            pictures=tuple(pictures.get(name, ())),
        )
        for index, name in enumerate(names)
    ]
    templates = page_templates("no_time_to_train.batch")
    script = templates.get_template("report.js").render().encode()
    page = templates.get_template("report.html.jinja").generate(
        palette=palette,
        classes=classes,
        images=_shown_images(outcome.entries, {image.name: image for image in images}, names, len(palette)),
        num_images=len(outcome.entries),
        num_instances=found.total(),
        unreadable=[(image.name, _reason(image, error)) for image, error in outcome.unreadable],
        from_memory=references is None,
        random_weights=predictor.random_weights,
        facts=_facts(predictor, min_score, settings, run),
        drawn_by=predictor.kind,
        min_score=min_score,
        version=__version__,
        script_hash=base64.b64encode(hashlib.sha256(script).digest()).decode(),
    )
    # Names of files may be no text at all; what UTF-8 cannot say is spelled out.
    write_text_atomic(path, (part.encode("utf-8", "backslashreplace").decode() for part in page))
    return path


def _shown_images(
    entries: Sequence[dict[str, Any]], images: Mapping[str, InputImage], names: Sequence[str], num_colours: int
) -> Iterator[ShownImage]:
    """Draw one image after the other: no two are in memory at once."""
    labels = {name: index for index, name in enumerate(names)}
    for entry in entries:
        width, height = entry["width"], entry["height"]
        try:
            image, stamp = images[entry["file_name"]].load()
        except ImageReadError:
            # It was there when it was looked at.
            picture = None
        else:
            # Outlines over another image would be wrong.
            picture = picture_of(image, _SIDE) if stamp.sha256 == entry["stamp"]["sha256"] else None
        instances = tuple(
            _shown_instance(instance, labels[instance["category"]], num_colours, picture, (height, width))
            for instance in sorted(entry["instances"], key=lambda each: -each["score"])
        )
        classes = Counter(instance.name for instance in instances)
        yield ShownImage(entry["file_name"], width, height, picture, instances, classes)


def _shown_instance(
    found: Mapping[str, Any], label: int, num_colours: int, picture: Picture | None, size: tuple[int, int]
) -> ShownInstance:
    outline, box = "", None
    if picture is not None:
        x, y, width, height = found["bbox"]
        annotation = Annotation(0, 0, 0, (x, y, width, height), found["area"], found["segmentation"])
        left, top = int(x), int(y)
        part = decode_mask(annotation, *size)[top : int(y + height), left : int(x + width)]
        outline, box = picture.outline(part, (left, top)), picture.box((x, y, width, height))
    return ShownInstance(label, label % num_colours, found["category"], found["score"], outline, box)


def _reference_pictures(
    files: ReferenceFiles, names: Sequence[str], predictor: Predictor
) -> dict[str, list[ShownReference]]:
    """Draw the first references of each class, those that show it before those that show what it is not."""
    read = read_references(files.references, files.images)
    found = [(reference, read.images) for reference in reference_set(read.dataset, names).references]
    if files.negatives is not None:
        read = read_references(files.negatives, files.images)
        found += [(reference, read.images) for reference in negative_references(read.dataset, names)]
    pictures: dict[str, list[ShownReference]] = {name: [] for name in names}
    for reference, folder in sorted(found, key=lambda pair: pair[0].negative):
        row = pictures[names[reference.class_index]]
        if len(row) < _SHOWN_OF_A_CLASS:
            row.append(_shown_reference(ReferenceDataset([reference], folder)[0], predictor))
    return pictures


def _shown_reference(item: ReferenceItem, predictor: Predictor) -> ShownReference:
    mask, box = predictor.object_of(item)
    x1, y1, x2, y2 = reference_window(box, mask.shape[0], mask.shape[1], _AROUND)
    pixels = np.ascontiguousarray(item.image[y1:y2, x1:x2])
    picture = picture_of(Image.fromarray(pixels), _REFERENCE_SIDE)
    outline = picture.outline(mask[y1:y2, x1:x2])
    reference = item.reference
    return ShownReference(
        picture, outline, path_as_named(reference.image.file_name), reference.negative, item.mask is None
    )


def _facts(predictor: Predictor, min_score: float, settings: Sequence[Path], run: str) -> dict[str, str]:
    facts = {**predictor.describe(), "Least score": f"{min_score:g}"}
    if settings:
        facts["Settings"] = ", ".join(map(path_as_named, settings))
    return facts | {"Version": f"no_time_to_train {__version__}", "Run": run}


def _reason(image: InputImage, error: ImageReadError) -> str:
    """Say why an image could not be read, by its name within the folder that was named."""
    text = " ".join(str(error).split())
    frame = image.frame_record()
    name = image.name if frame is None else frame["video"]
    for path in sorted({str(image.path), real_path(image.path)}, key=len, reverse=True):
        text = text.replace(path, name)
    return text
