"""Names of the files and folders of other programs' forms."""

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

# Most bytes of a name that file systems take.
_LONGEST = 255
_MARK = "~"
# What text files, XML, or programs made for Windows do not take: control characters, bytes that are not UTF-8, `\`.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\u2028\u2029\ufffe\uffff]")
# Lists of names are read without the spaces around them, and without lines that begin with `#`.
_UNFIT_ENDS = re.compile(r"^[\s#]|\s$")
_UNFIT_IN_FOLDERS = re.compile(r'[<>:"/|?*]')


def shortened(name: str, ending: str) -> str:
    """Return a name with its ending; if that is too long for a file system, the name is cut and ends in a hash."""
    content = os.fsencode(name)
    if len(content) + len(ending) <= _LONGEST:
        return f"{name}{ending}"
    tail = f"{_MARK}{hashlib.sha256(content).hexdigest()[:16]}{ending}"
    # Cut between letters, unless the name is not text in the first place.
    head = content[: _LONGEST - len(tail)].decode("utf-8", "ignore")
    return f"{head}{tail}"


def marked_folder(folder: str, ending: str) -> str:
    """Return a folder's name, with `~` added if a file with this ending may be called the same."""
    return f"{folder}{_MARK}" if re.fullmatch(rf".*{re.escape(ending)}{_MARK}*", folder, re.DOTALL) else folder


def distinct_names(names: Sequence[str]) -> list[str]:
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


def plain_names(names: Sequence[str], endings: Sequence[str], reserved: Collection[str] = ()) -> list[str]:
    r"""Return distinct names for images and for the files of other endings that go with them.

    Characters that a text file, XML or a program for Windows does not take become `_`.

    Args:
        names: Of the images, with `/` between folders.
        endings: Of the files that go with them, such as `.json`; these fit too.
        reserved: Names of folders that mean something to the program; `_` is added to them.

    Examples:
        >>> plain_names(["a b/ü.jpg", "a b/ü.png", "x\\y.png", "labels/1.png"], [".txt"], ["labels"])
        ['a b/ü.jpg', 'a b/ü_png.png', 'x_y.png', 'labels_/1.png']
    """
    cleaned = []
    for name in names:
        *folders, last = (_fit(part) for part in name.split("/"))
        image_ending = PurePosixPath(last).suffix
        longest = max(image_ending, *endings, "", key=lambda one: len(os.fsencode(one)))
        stem = shortened(_fit(last.removesuffix(image_ending)), longest).removesuffix(longest)
        folders = [f"{part}_" if part in reserved else part for part in folders]
        for ending in endings:
            folders = [marked_folder(part, ending) for part in folders]
        cleaned.append("/".join([*(shortened(part, "") for part in folders), stem + image_ending]))
    return distinct_names(cleaned)


def with_ending(name: str, ending: str) -> str:
    """Return the name of the file that goes with an image."""
    return str(PurePosixPath(name).with_suffix(ending))


def class_folders(names: Sequence[str]) -> list[str]:
    """Return a folder's name for each class; they differ even where upper and lower case do not.

    Examples:
        >>> class_folders(["red apple", "and/or", "..", "Red Apple"])
        ['red apple', 'and_or', '__', 'Red Apple_2']
    """
    seen: set[str] = set()
    result = []
    for name in names:
        # Neither hidden, nor with an end that Windows cuts off.
        base = re.sub(r"^[. ]|[. ]$", "_", _UNFIT_IN_FOLDERS.sub("_", plain_text(name)))
        folder, number = shortened(base or "_", ""), 1
        while folder.casefold() in seen:
            number += 1
            folder = shortened(f"{base}_{number}", "")
        seen.add(folder.casefold())
        result.append(folder)
    return result


def plain_text(text: str) -> str:
    """Replace what XML and text in UTF-8 cannot hold by `_`."""
    return _UNFIT.sub("_", text)


def _fit(part: str) -> str:
    return _UNFIT_ENDS.sub("_", _UNFIT.sub("_", part))


def _short(stem: str, ending: str) -> str:
    """Cut the last part of a path so that it fits with its ending."""
    folder, slash, last = stem.rpartition("/")
    return folder + slash + shortened(last, ending).removesuffix(ending)
