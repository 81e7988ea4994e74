"""Names of the files that are written for an image, under the folder of their kind."""

from pathlib import PurePosixPath

from no_time_to_train.results.formats.names import marked_folder, shortened


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
    marked = [shortened(marked_folder(folder, ending), "") for folder in folders]
    return PurePosixPath(*marked, shortened(last, ending))
