"""Looking at many images: what is done is not done again, and what cannot be read does not stop the rest."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.journal import Journal
from no_time_to_train.batch.places import place_of
from no_time_to_train.batch.results import found_dataset, write_results
from no_time_to_train.data.datasets import ReferenceItem
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.errors import ImageReadError
from no_time_to_train.io.atomic import atomic_path, remove_file
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.io.redact import printable
from no_time_to_train.results.coco_output import PREDICTIONS, FoundDataset
from no_time_to_train.results.formats.folders import remove_exports


class Predictor(Protocol):
    """Finds instances of the classes of its references in images; `Segmenter` is one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes."""

    @property
    def references(self) -> Sequence[tuple[str, Any, bool]]:
        """Label, mean feature and whether it is negative, of each reference."""

    @property
    def random_weights(self) -> Sequence[str]:
        """Names of the models whose weights are random, so that what is found means nothing."""

    @property
    def kind(self) -> str:
        """Name of the model that draws masks, such as `SAM2`."""

    def describe(self) -> dict[str, str]:
        """Return its models and their settings, for people."""

    def predict(self, images: UInt8[np.ndarray, "H W 3"]) -> Prediction:
        """Find instances in one image."""

    def object_of(self, item: ReferenceItem) -> tuple[Bool[np.ndarray, "H W"], tuple[float, float, float, float]]:
        """Return a reference's mask and box; a mask that it does not have is drawn by its points or its box."""


INSTANCES, OVERLAYS, RESULTS, REPORT = "instances", "overlays", PREDICTIONS, "report.html"


@dataclass
class RunSummary:
    """What came of a run.

    Attributes:
        entries: The journal's entry of each image, in the images' order.
        unreadable: Images that could not be read, and why.
        kept: How many of the entries an earlier run had made.
        changed: Images whose files were changed or removed after they were read; the entries are of what was read.
        dataset: All entries as a COCO dataset; None until all images are done.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[InputImage, ImageReadError]] = field(default_factory=list)
    kept: int = 0
    changed: list[InputImage] = field(default_factory=list)
    dataset: FoundDataset | None = None


def predict_images(
    predictor: Predictor,
    images: Sequence[InputImage],
    output: Path,
    *,
    run: str,
    image_root: Path,
    min_score: float = 0.0,
    overlays: bool = True,
    polygons: bool = False,
    strict: bool = False,
    whole: bool = True,
    console: Console | None = None,
) -> RunSummary:
    """Find the references' classes in images, and write what was found.

    The output folder gets a JSON file and an overlay for each image, written as soon as it is done, and a COCO JSON of
    all. An image whose JSON is there, whole, of the same run and of the same content, is not looked at again.

    Args:
        predictor: With its references.
        images: To look at.
        output: The folder to write.
        run: Names everything but the images that decides what is found and drawn.
        image_root: The folder to which the images' names are relative.
        min_score: Instances of a lower score are left out.
        overlays: Draw each image with what was found.
        polygons: Write masks as polygons instead of RLE into the COCO JSON.
        strict: Stop at the first image that cannot be read.
        whole: These are all images. If not, other processes look at the rest, and the COCO JSON is left to a later run.
        console: Where the progress bar goes; nowhere if None.

    Raises:
        ImageReadError: An image cannot be read, and `strict` is set.
        OutputError: The folder cannot be written to.
    """
    journal = Journal(output / INSTANCES, run, predictor.class_names, min_score)
    outcome = RunSummary()
    exports_removed = False
    for image in _with_progress(images, console):
        entry = journal.read(image)
        drawn = overlay_of(image, output)
        if entry is not None and (drawn.is_file() or not overlays):
            outcome.kept += 1
            outcome.entries.append(entry)
            continue
        try:
            picture, stamp = image.load()
        except ImageReadError as error:
            if strict:
                raise
            outcome.unreadable.append((image, error))
            continue
        pixels = np.array(picture)
        candidates = predictor.predict(pixels)
        # Whatever an earlier run left goes first, so that results, entries and overlays are never of two runs.
        if not exports_removed:
            remove_exports(output)
            exports_removed = True
        for old in (output / RESULTS, output / REPORT, journal.path(image), drawn):
            remove_file(old)
        if overlays:
            # Before the entry: what the journal has is whole.
            with atomic_path(drawn) as temporary:
                candidates.filter(min_score).draw(pixels).save(temporary)
        outcome.entries.append(journal.write(image, candidates, stamp))
    if whole:
        outcome.dataset = found_dataset(outcome.entries, predictor.class_names, image_root)
        write_results(output, outcome.dataset, polygons=polygons, stale=(REPORT,))
    # At the end: an image that was looked at first can be replaced for as long as the run takes.
    stamps = {entry["file_name"]: FileStamp.from_json(entry["stamp"]) for entry in outcome.entries}
    # All frames of a video have its one stamp, and the video is hashed once.
    is_still = functools.cache(_is_still)
    outcome.changed = [
        image for image in images if image.name in stamps and not is_still(image.path, stamps[image.name])
    ]
    return outcome


def overlay_of(image: InputImage, output: Path) -> Path:
    """Return where an image with what was found goes."""
    return output / OVERLAYS / place_of(image.name, ".png")


def summary(outcome: RunSummary, class_names: Sequence[str]) -> Table:
    """Lay out how many instances of each class were found, in how many images, and how sure."""
    scores: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, set[str]] = defaultdict(set)
    for entry in outcome.entries:
        for instance in entry["instances"]:
            scores[instance["category"]].append(instance["score"])
            seen[instance["category"]].add(entry["file_name"])
    table = Table("class", "instances", "images", "best score", "mean score")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in class_names:
        values = scores[name]
        cells = [f"{max(values):.2f}", f"{sum(values) / len(values):.2f}"] if values else ["-", "-"]
        table.add_row(printable(name), str(len(values)), str(len(seen[name])), *cells)
    return table


def _is_still(path: Path, stamp: FileStamp) -> bool:
    try:
        return stamp.same_content(path)
    except OSError:
        return False


def _with_progress(images: Sequence[InputImage], console: Console | None) -> Iterator[InputImage]:
    if console is None or not console.is_terminal:
        # In a file a bar would be but an empty line before what goes wrong.
        yield from images
        return
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(images)
