"""Predictions in Python, in the forms of other programs."""

import os
from collections.abc import Mapping
from pathlib import Path

from no_time_to_train.data.images import load_stamped_image
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.data.records import Category, ImageRecord
from no_time_to_train.errors import ConfigError, ImageSizeError
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats import ExportName
from no_time_to_train.results.formats.folders import EXPORTS, write_export


def write_predictions(
    predictions: Mapping[Path, Prediction] | Mapping[str, Prediction] | Mapping[Path | str, Prediction],
    folder: Path | str,
    format: ExportName,
) -> Path:
    """Write what was found in images as `ntt predict --format` does.

    Args:
        predictions: By the image's file, all of the same classes. Images are called by their paths within the deepest
            folder that holds them all.
        folder: The folder to write; an earlier one of this function is replaced.
        format: One of `ntt predict --format`, or `crops`.

    Returns:
        `folder`.

    Raises:
        ConfigError: The format is not known, there are no predictions, or they are of different classes.
        ImageReadError: An image cannot be read.
        ImageSizeError: An image is of another size than what was found in it.
        OutputError: The folder cannot be written, or holds something else.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 6)).save(root / "boat.png")
        >>> masks, box = np.ones((1, 6, 8), dtype=bool), np.array([[0, 0, 7, 5]], dtype=np.float32)
        >>> found = Prediction(masks, box, np.array([0.5], np.float32), np.array([0]), ("boat",), (6, 8))
        >>> written = write_predictions({root / "boat.png": found}, root / "found", "yolo-seg")
        >>> (written / "labels" / "boat.txt").read_text().split()[:3]
        ['0', '0', '0.0833333']
    """
    check_format(format)
    class_names = {prediction.class_names for prediction in predictions.values()}
    if len(class_names) != 1:
        got = "none" if not class_names else " and ".join(", ".join(names) for names in sorted(class_names)[:2])
        raise ConfigError(f"expected predictions of the same classes, got {got}", remedy="write each on its own")
    paths = [Path(os.path.normpath(Path(path).absolute())) for path in predictions]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    images, results, files = [], [], []
    for image_id, (path, prediction) in enumerate(zip(paths, predictions.values(), strict=True), start=1):
        picture, stamp = load_stamped_image(path)
        if (picture.height, picture.width) != prediction.image_size:
            raise ImageSizeError(
                f"{path} is {picture.width} wide and {picture.height} high, the masks are of an image of "
                f"{prediction.image_size[1]} by {prediction.image_size[0]}",
                remedy="give the image in which they were found",
            )
        name = path.relative_to(root).as_posix()
        images.append(ImageRecord(image_id, name, picture.width, picture.height))
        results += prediction.to_coco(image_id)
        files.append((path, stamp))
    categories = [Category(index, name) for index, name in enumerate(class_names.pop(), start=1)]
    write_export(Path(folder), format, FoundDataset(images, results, categories, root), files)
    return Path(folder)


def check_format(format: str) -> None:
    """Refuse a format that is not known.

    Raises:
        ConfigError: It is not.
    """
    if format not in EXPORTS:
        raise ConfigError(f"format is {format!r:.40}, expected one of {', '.join(EXPORTS)}", remedy="name one of them")
