"""The folders of other programs' forms: written whole or not at all, and replaced only if nobody else changed them."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from no_time_to_train.errors import DataNotFoundError, OutputError
from no_time_to_train.io.atomic import atomic_folder, remove_folder
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats import ExportName
from no_time_to_train.results.formats.crops import write_crops
from no_time_to_train.results.formats.names import distinct_names, plain_names
from no_time_to_train.results.formats.table import COCO_ANNOTATIONS, FORMATS

CROPS: Literal["crops"] = "crops"
# All folders that are written here, by name.
EXPORTS: tuple[ExportName, ...] = (*FORMATS, CROPS)
SourceImages = Sequence[tuple[Path, FileStamp]]

_COCO = ("coco", "coco-polygons")
# Says what was written, so that what was added or changed is not lost. No ending: programs list files by theirs.
_LIST = ".ntt-export"
# File systems count time in steps of up to two seconds (FAT).
_STEP_NS = 2_000_000_000
# What programs leave by themselves, such as the cache of YOLO's labels.
_CACHES = (".cache", ".db")


def write_export(folder: Path, name: ExportName, dataset: FoundDataset, images: SourceImages) -> None:
    """Write a dataset in a form, or its crops, wholly or not at all.

    Images are hard links, which take no room; on another file system, or on one without hard links, copies. Programs
    know images by their names without the ending: of `a.jpg` and `a.png`, the second one is called `a_png.png` there.

    Args:
        folder: The folder; an earlier one of this function is replaced.
        name: Of the form, or `crops`.
        dataset: What was found.
        images: The file of each of the dataset's images, in their order, and the stamp of what was looked at.

    Raises:
        OutputError: The folder holds something else, or cannot be written, or the form cannot hold the dataset.
        DataNotFoundError: An image is not there any more, or is another one by now.
        ImageReadError: An image cannot be read any more.
    """
    check_export(folder, name)
    with atomic_folder(folder) as new:
        linked: list[Path] = []
        if name == "crops":
            write_crops(new, dataset, images)
        else:
            form = FORMATS[name]
            if form.images is not None:
                given = [image.file_name for image in dataset.images]
                names = (
                    distinct_names(given) if form.endings is None else plain_names(given, form.endings, form.reserved)
                )
                dataset = dataset.with_image_root(new / form.images, names)
                linked = [new / form.images / each for each in names]
                for (path, stamp), target in zip(images, linked, strict=True):
                    _link_or_copy(path, stamp, target, folder.name)
            form.write(new, dataset)
        if name not in _COCO:
            _write_list(new, name, linked)


def check_export(folder: Path, name: ExportName) -> None:
    """Refuse a folder that was not written here, or to which something was added or changed: it would be replaced.

    Raises:
        OutputError: There is such a folder, or a file.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    option = "--crops" if name == CROPS else f"--format {name}"
    remedy = "name another --output, or move it"
    if not is_export(folder, name):
        raise OutputError(f"{folder} holds something else than what {option} writes", remedy=remedy)
    changed = _first_change(folder, name)
    if changed is not None:
        raise OutputError(
            f"{folder} is to be written anew, and {changed} in it was added or changed since {option} wrote it",
            remedy=remedy,
        )


def remove_exports(output: Path) -> None:
    """Remove the folders that were written here; those that were changed since, and others, stay."""
    for name in EXPORTS:
        if is_export(output / name, name) and _first_change(output / name, name) is None:
            remove_folder(output / name)


def is_export(folder: Path, name: ExportName) -> bool:
    """Return whether a folder was written here, whatever was changed in it since."""
    if folder.is_symlink():
        return False
    return _is_coco(folder) if name in _COCO else _read_list(folder, name) is not None


def _is_coco(folder: Path) -> bool:
    """Return whether there is nothing but annotations of a `FoundDataset`, and images."""
    try:
        if {path.name for path in folder.iterdir()} != {"annotations", "images"}:
            return False
        if [path.name for path in (folder / "annotations").iterdir()] != [COCO_ANNOTATIONS.name]:
            return False
        # The info is at the beginning; the file may be large.
        with (folder / COCO_ANNOTATIONS).open(encoding="utf-8") as stream:
            return stream.read(len(FoundDataset.BEGINNING)) == FoundDataset.BEGINNING
    except (OSError, ValueError):
        return False


def _write_list(folder: Path, name: str, linked: Sequence[Path]) -> None:
    """Write which files are in a folder, with size and time; without those for images, which others may change."""
    links = set(linked)
    files: dict[str, list[int] | None] = {}
    for path in _files(folder):
        state = path.stat()
        inner = path.relative_to(folder).as_posix()
        files[inner] = None if path in links else [state.st_size, state.st_mtime_ns]
    (folder / _LIST).write_text(json.dumps({"format": name, "files": files}), encoding="utf-8")


def _read_list(folder: Path, name: str) -> dict[str, list[int] | None] | None:
    try:
        document = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        if document["format"] != name:
            return None
        files: dict[str, list[int] | None] = document["files"]
        well = all(each is None or [type(one) for one in each] == [int, int] for each in files.values())
        return files if well else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _first_change(folder: Path, name: str) -> str | None:
    """Return a file that was added to a folder, or written to, since it was written here."""
    listed = _read_list(folder, name)
    if listed is None:
        return None
    for path in _files(folder):
        inner = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or path.suffix in _CACHES:
            continue
        if inner not in listed:
            return inner
        was, state = listed[inner], path.lstat()
        if was is not None and (state.st_size != was[0] or abs(state.st_mtime_ns - was[1]) > _STEP_NS):
            return inner
    return None


def _files(folder: Path) -> Iterator[Path]:
    for inside, _, names in os.walk(folder):
        yield from (Path(inside, name) for name in sorted(names))


def _link_or_copy(path: Path, stamp: FileStamp, target: Path, folder: str) -> None:
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
        is_same = is_same or stamp.same_content(target)
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path} was removed before it could be put into {folder}/", remedy="run the same command again"
        ) from error
    if not is_same:
        raise DataNotFoundError(
            f"{path} was written to after it was looked at, and was not put into {folder}/",
            remedy="run the same command again",
        )
