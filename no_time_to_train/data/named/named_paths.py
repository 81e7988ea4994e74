"""The files and folders that a user names: by their paths, by a pattern, in a text file, or on standard input."""

import codecs
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from no_time_to_train.data.image_files import real_path
from no_time_to_train.errors import DataNotFoundError, NoTimeToTrainError
from no_time_to_train.io.paths import check_local, in_home, is_file, is_folder, read_regular

_STANDARD_INPUT = Path("-")
_LIST_ENDING = ".txt"
_MOST_NAMED = 5


def named_paths(given: Sequence[Path], *, but: Path | None = None) -> list[Path]:
    """Return the files and folders that are meant by what a user names.

    - A path with `*`, `?` or `[...]` is a pattern, unless a file or folder has that very name; `**` stands for any
      folders. Shells other than those of Windows expand patterns themselves, unless they are quoted.
    - `-` reads paths from standard input, one a line, or separated by NUL if there is one.
    - A text file (`.txt`) lists paths, one a line, relative to its folder. Blank lines and those that begin with `#` do
      not count.
    - Any other path is returned as it is.

    Args:
        given: As named.
        but: What is in this folder matches no pattern: the pictures that an earlier run drew.

    Raises:
        DataNotFoundError: A pattern matches nothing, a list names nothing, or a line names what is not there.
        OSError: A list cannot be read.
    """
    paths: list[Path] = []
    for path in given:
        if path == _STANDARD_INPUT:
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()
            paths += _listed(content, "standard input", Path(), but)
        elif path.suffix.lower() == _LIST_ENDING and is_file(path):
            paths += _listed(read_regular(path), path, path.parent, but)
        elif _is_pattern(path):
            paths += _matches(str(path), Path(), but)
        else:
            paths.append(path)
    return paths


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def _matches(pattern: str, folder: Path, but: Path | None) -> list[Path]:
    """Return what matches a pattern within a folder, sorted.

    Raises:
        DataNotFoundError: Nothing does.
    """
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - `Path.glob` takes no absolute pattern
    found = [folder / name for name in sorted(names)]
    if but is not None:
        left_out = real_path(but)
        found = [path for path in found if not Path(real_path(path)).is_relative_to(left_out)]
    if not found:
        raise DataNotFoundError(
            f"no file matches {folder / pattern}",
            remedy="check the pattern: * stands for any part of a name, ** for any folders, [ab] for a or b",
        )
    return found


def _listed(content: bytes, source: Path | str, folder: Path, but: Path | None) -> list[Path]:
    """Return the paths in a list.

    Args:
        content: Of the list.
        source: The list's file, or what else to call it in errors. A file may have comments.
        folder: The folder to which the paths are relative.
        but: As for `named_paths`.

    Raises:
        DataNotFoundError: The list is empty, or a line names what is not there; the first such lines are named.
    """
    paths: list[Path] = []
    wrong: list[str] = []
    for place, text in _entries(content, comments=isinstance(source, Path)):
        try:
            paths += _named_in_list(text, folder, but)
        except NoTimeToTrainError as error:
            wrong.append(f"{place}: {error.message}")
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise DataNotFoundError(
            f"{source}, {'; '.join(wrong[:_MOST_NAMED])}{more}",
            remedy=f"correct the list; its paths are relative to {os.path.normpath(folder)}"
            if isinstance(source, Path)
            else "pass paths of images and folders, one a line",
        )
    if not paths:
        raise DataNotFoundError(f"{source} names no images", remedy="write paths of images and folders, one a line")
    return paths


def _entries(content: bytes, *, comments: bool) -> Iterator[tuple[str, str]]:
    """Return the entries of a list with their places, without those that are blank."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            # Editors and shells of Windows write these.
            text = content.decode(encoding, "replace").removeprefix("\ufeff")
            break
    else:
        text = os.fsdecode(content)
    separator, kind = ("\0", "entry") if "\0" in text else ("\n", "line")
    for number, entry in enumerate(text.split(separator), start=1):
        if separator == "\n":
            entry = entry.strip() if comments else entry.rstrip("\r")
        if entry.strip() and not (comments and entry.startswith("#")):
            yield f"{kind} {number}", entry


def _named_in_list(text: str, folder: Path, but: Path | None) -> list[Path]:
    """Return what an entry of a list names.

    Raises:
        NoTimeToTrainError: There is nothing of that name, or it is a list itself.
    """
    check_local(text, "a path")
    text = in_home(text)
    path = folder / text
    if path.suffix.lower() == _LIST_ENDING:
        raise DataNotFoundError(f"{path} is a list itself", remedy="name it on the command line")
    if _is_pattern(path):
        return _matches(text, folder, but)
    if not is_file(path) and not is_folder(path):
        raise DataNotFoundError(f"there is no image and no folder {path}", remedy="check the path")
    return [path]
