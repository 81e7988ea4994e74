"""What was found in each image, a file each: results for people, and where an interrupted run goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.batch.entries import check_entry
from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.places import place_of
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.io.paths import read_regular

_ENDING = ".json"


@dataclass(frozen=True)
class Journal:
    """A folder with a JSON file for each image that is done.

    Attributes:
        folder: Where the files are; each has its image's name with `.json` added.
        run: Names everything that decides what is found. Entries of another run do not count.
        class_names: The classes that are looked for, in their order.
        min_score: Instances of a lower score are left out.
    """

    folder: Path
    run: str
    class_names: Sequence[str]
    min_score: float

    def path(self, image: InputImage) -> Path:
        """Return where an image's entry is."""
        return self.folder / place_of(image.name, _ENDING)

    def read(self, image: InputImage) -> dict[str, Any] | None:
        """Return an image's entry, if this run made it, it is whole, and the file has the same content."""
        try:
            entry = read_entry(self.path(image))
            if entry["run"] != self.run or entry["file_name"] != image.name:
                return None
            # Of files that nobody wrote as an entry, anything may come.
            check_entry(entry, image, self.class_names, self.min_score)
            fresh = image.has_content(FileStamp.from_json(entry["stamp"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError, NoTimeToTrainError):
            return None
        return entry if fresh else None

    def write(
        self,
        image: InputImage,
        candidates: Prediction,
        stamp: FileStamp,
    ) -> dict[str, Any]:
        """Write an image's entry, whole or not at all, and return it.

        Args:
            image: The image.
            candidates: What was found in it, below the least score too.
            stamp: The stamp of the content that was looked at.
        """
        height, width = candidates.image_size
        frame = image.frame_record()
        entry = {
            "file_name": image.name,
            "height": height,
            "width": width,
            **({} if frame is None else {"frame": frame}),
            "instances": _instances(candidates.filter(self.min_score)),
            "best_scores": _best_scores(candidates),
            "run": self.run,
            "stamp": stamp.to_json(),
        }
        write_text_atomic(self.path(image), json.dumps(entry, indent=1) + "\n")
        return entry


def read_entry(path: Path) -> dict[str, Any]:
    """Read the file of an entry, whose values are not checked.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It does not hold an entry.
        RecursionError: It is nested too deep.
    """
    entry = json.loads(read_regular(path))
    if not isinstance(entry, dict) or not {"file_name", "instances", "run", "stamp"} <= entry.keys():
        raise ValueError(f"{path} does not hold an entry")
    return entry


def _instances(found: Prediction) -> list[dict[str, Any]]:
    areas = found.masks.sum(axis=(1, 2)).tolist()
    rows = zip(found.to_coco(), found.names, areas, strict=True)
    return [{"category": name, "area": area, **row} for row, name, area in rows]


def _best_scores(found: Prediction) -> dict[str, float]:
    """Return the best score of each class that has any, by the class's name."""
    best: dict[str, float] = {}
    for name, score in zip(found.names, found.scores.tolist(), strict=True):
        best[name] = max(score, best.get(name, score))
    return best
