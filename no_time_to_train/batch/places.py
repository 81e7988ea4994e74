"""Names of the files that are written for an image, under the folder of their kind."""

import hashlib
import os
import re
from pathlib import PurePosixPath

# Most bytes of a name that file systems take.
_LONGEST = 255
_MARK = "~"


def place_of(name: str, ending: str) -> PurePosixPath:
    """Return where an image's file of a kind goes: at the image's name with the ending added.

    A folder whose own name has the ending gets `~` added, because it may be next to an image whose file would have the
    folder's name. A name that gets too long is cut, and ends in a hash of all of it.

    Args:
        name: The image's name, with `/` between folders.
        ending: Of the file, such as `.json`.

    Examples:
        >>> str(place_of("harbor/boat.jpg", ".json"))
        'harbor/boat.jpg.json'
        >>> str(place_of("boat.jpg.json/boat.jpg", ".json"))
        'boat.jpg.json~/boat.jpg.json'
    """
    *folders, last = name.split("/")
    taken = re.compile(rf".*{re.escape(ending)}{_MARK}*", re.DOTALL)
    marked = [f"{folder}{_MARK}" if taken.fullmatch(folder) else folder for folder in folders]
    return PurePosixPath(*(shortened(folder, "") for folder in marked), shortened(last, ending))


def shortened(name: str, ending: str) -> str:
    """Return a name with its ending; if that is too long for a file system, the name is cut and ends in a hash."""
    content = os.fsencode(name)
    if len(content) + len(ending) <= _LONGEST:
        return f"{name}{ending}"
    tail = f"{_MARK}{hashlib.sha256(content).hexdigest()[:16]}{ending}"
    # Cut between letters, unless the name is not text in the first place.
    head = content[: _LONGEST - len(tail)].decode("utf-8", "ignore")
    return f"{head}{tail}"
