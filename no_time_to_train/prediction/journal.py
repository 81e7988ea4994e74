"""What was found in each image, a file each: results for people, and where an interrupted run goes on."""

import json
from pathlib import Path
from typing import Any

from no_time_to_train.evaluation import Result
from no_time_to_train.files import write_text_atomic
from no_time_to_train.prediction.inputs import InputImage


class Journal:
    """A folder with a JSON file for each image that is done.

    Args:
        folder: Where the files are; each has its image's name, and `.json` behind it.
        run: Names everything that decides what is found. Entries of another run do not count.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def path(self, image: InputImage) -> Path:
        """Return where an image's entry is."""
        return self.folder / f"{image.name}.json"

    def read(self, image: InputImage) -> dict[str, Any] | None:
        """Return an image's entry, if this run made it and the file is still the same."""
        try:
            entry = json.loads(self.path(image).read_text())
            # Of files that nobody wrote as an entry, anything may come.
            fresh = entry["run"] == self.run and entry["stamp"] == image.stamp() and _is_whole(entry)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return entry if fresh else None

    def write(self, image: InputImage, size: tuple[int, int], instances: list[Result]) -> dict[str, Any]:
        """Write an image's entry, whole or not at all, and return it.

        Args:
            image: That was looked at.
            size: Its height and width.
            instances: COCO results without the image's id, with the class's name.
        """
        entry = {
            "file_name": image.name,
            "height": size[0],
            "width": size[1],
            "instances": instances,
            "run": self.run,
            "stamp": image.stamp(),
        }
        write_text_atomic(self.path(image), json.dumps(entry, indent=1) + "\n")
        return entry


def _is_whole(entry: dict[str, Any]) -> bool:
    """Tell whether an entry holds what results are made of; a KeyError or TypeError says no as well."""
    # NaN and infinities are in no JSON that others read.
    json.dumps(entry, allow_nan=False)
    return (
        isinstance(entry["file_name"], str)
        and type(entry["height"]) is type(entry["width"]) is int
        and isinstance(entry["instances"], list)
        and all(type(found["score"]) is float and isinstance(found["category"], str) for found in entry["instances"])
    )
