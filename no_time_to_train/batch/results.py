"""What a run writes of all images together: `predictions.json`, and a folder for annotation tools."""

import filecmp
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.places import shortened
from no_time_to_train.data.image_files import real_path
from no_time_to_train.data.records import Category, ImageRecord
from no_time_to_train.errors import DataNotFoundError, OutputError
from no_time_to_train.io.atomic import atomic_folder, atomic_path, remove_file, remove_folder
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.results.coco_output import PREDICTIONS, FoundDataset

COCO_FOLDER = "coco"
_ANNOTATIONS, _IMAGES = Path("annotations", "instances_default.json"), Path("images", "default")


def found_dataset(entries: Sequence[dict[str, Any]], class_names: Sequence[str], image_root: Path) -> FoundDataset:
    """Put a journal's entries together.

    Ids of images count from 1 in their order; so do those of categories, in the classes' order.

    Args:
        entries: The entries.
        class_names: The classes that were looked for.
        image_root: The folder to which the entries' file names are relative.
    """
    images = []
    results: list[dict[str, Any]] = []
    for image_id, entry in enumerate(entries, start=1):
        size = entry["width"], entry["height"]
        images.append(ImageRecord(image_id, entry["file_name"], *size, frame=entry.get("frame")))
        for instance in entry["instances"]:
            rest = {key: value for key, value in instance.items() if key != "category"}
            results.append({"image_id": image_id, **rest})
    categories = [Category(index, name) for index, name in enumerate(class_names, start=1)]
    return FoundDataset(images, results, categories, image_root)


def write_results(output: Path, dataset: FoundDataset, *, polygons: bool, stale: Sequence[str]) -> None:
    """Write `predictions.json`; if it differs from an earlier run's, remove what belonged to that one first.

    Args:
        output: The folder of the results.
        dataset: What was found.
        polygons: Write masks as polygons instead of RLE.
        stale: Names of the files that belong to the earlier `predictions.json`.

    Raises:
        OutputError: The folder cannot be written to.
    """
    path = output / PREDICTIONS
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(dataset.parts(path.parent, polygons=polygons))
        if not path.is_file() or not filecmp.cmp(temporary, path, shallow=False):
            for name in stale:
                remove_file(output / name)
            remove_coco_folder(output / COCO_FOLDER)


def write_coco_folder(
    folder: Path, dataset: FoundDataset, images: Sequence[tuple[Path, FileStamp]], *, polygons: bool
) -> None:
    """Write a dataset with its images as annotation tools open it, wholly or not at all.

    The folder gets `annotations/instances_default.json` and `images/default/`. Images are hard links, which take no
    room; on another file system, or on one without hard links, copies. Tools know images by their names without the
    ending: of `a.jpg` and `a.png`, the second one is called `a_png.png` there.

    Args:
        folder: The folder; an earlier one of this function is replaced.
        dataset: What was found.
        images: The file of each of the dataset's images, in their order, and the stamp of what was looked at.
        polygons: Write masks as polygons instead of RLE.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
        DataNotFoundError: An image is not there any more, or is another one by now.
    """
    check_coco_folder(folder)
    names = _distinct([image.file_name for image in dataset.images])
    with atomic_folder(folder) as beside:
        for (path, stamp), name in zip(images, names, strict=True):
            _link_or_copy(path, stamp, beside / _IMAGES / name)
        dataset.with_image_root(beside / _IMAGES, names).write(beside / _ANNOTATIONS, polygons=polygons)


def check_coco_folder(folder: Path) -> None:
    """Refuse a folder that `write_coco_folder` did not write: it would be replaced.

    Raises:
        OutputError: There is such a folder, or a file.
    """
    empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not empty and not _is_coco_folder(folder):
        raise OutputError(
            f"{folder} holds something else than what --format coco writes", remedy="name another --output, or move it"
        )


def remove_coco_folder(folder: Path) -> None:
    """Remove a folder that `write_coco_folder` wrote; any other one stays."""
    if _is_coco_folder(folder):
        remove_folder(folder)


def outside_coco_folder(images: Sequence[InputImage], folder: Path) -> list[InputImage]:
    """Leave out the images that `write_coco_folder` put into a folder.

    Raises:
        DataNotFoundError: There are no others.
    """
    if not _is_coco_folder(folder):
        return list(images)
    real = Path(os.path.realpath(folder))
    kept = [image for image in images if not Path(real_path(image.path)).is_relative_to(real)]
    if images and not kept:
        raise DataNotFoundError(
            f"all images are in {folder}, which this command writes",
            remedy="name the folder of the photographs, or another --output",
        )
    return kept


def _is_coco_folder(folder: Path) -> bool:
    """Return whether there is nothing but annotations of a `FoundDataset`, and images."""
    try:
        if folder.is_symlink():
            return False
        if {path.name for path in folder.iterdir()} != {"annotations", "images"}:
            return False
        if [path.name for path in (folder / "annotations").iterdir()] != [_ANNOTATIONS.name]:
            return False
        # The info is at the beginning; the file may be large.
        with (folder / _ANNOTATIONS).open(encoding="utf-8") as stream:
            return stream.read(len(FoundDataset.BEGINNING)) == FoundDataset.BEGINNING
    except (OSError, ValueError):
        return False


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names that differ without their endings too, and that fit; the first of several keeps its own."""
    taken = {str(PurePosixPath(name).with_suffix("")) for name in names}
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    seen: set[str] = set()
    result = []
    for name in names:
        ending = PurePosixPath(name).suffix
        stem = name.removesuffix(ending)
        if stem in seen:
            base, number = f"{stem}_{ending[1:]}", 1
            stem = _short(base, ending)
            while stem in taken or stem + ending in folders:
                number += 1
                stem = _short(f"{base}_{number}", ending)
            taken.add(stem)
        seen.add(stem)
        result.append(stem + ending)
    return result


def _short(stem: str, ending: str) -> str:
    """Cut the last part of a path so that it fits with its ending."""
    folder, slash, last = stem.rpartition("/")
    return folder + slash + shortened(last, ending).removesuffix(ending)


def _link_or_copy(path: Path, stamp: FileStamp, target: Path) -> None:
    """Put an image where it belongs, if it is the one that was looked at: another one would get its masks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Asked first, since a link changes the file's ctime.
        is_same = stamp.settled and stamp.same_state(path)
        try:
            # Not a link to a link, which would end where that one does.
            os.link(os.path.realpath(path), target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, target)
            is_same = False
        state = target.stat()
        is_same = is_same and (state.st_ino, state.st_mtime_ns) == (stamp.inode, stamp.mtime_ns)
        if not is_same and not stamp.same_content(target):
            raise DataNotFoundError(
                f"{path} was written to after it was looked at, and was not put into {COCO_FOLDER}/",
                remedy="run the same command again",
            )
    except DataNotFoundError:
        raise
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path} was removed before it could be put into {COCO_FOLDER}/", remedy="run the same command again"
        ) from error
