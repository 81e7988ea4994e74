"""References as they are typed: `photo.jpg:apple@12,40,200,180`, a box, and `photo.jpg:apple@90,120`, a point."""

import re
from pathlib import Path

from no_time_to_train.data.references.builder import LabeledImages, RecordBuilder, number_in
from no_time_to_train.errors import AnnotationError, DataNotFoundError
from no_time_to_train.io.paths import is_file, is_folder

_TYPED = re.compile(r"(?P<image>.+):(?P<label>[^:/\\]*)@(?P<numbers>[^@]*)", re.DOTALL)
_REMEDY = "write IMAGE:CLASS@x,y,width,height for a box, or IMAGE:CLASS@x,y for a point, in pixels"


def is_typed(source: str) -> bool:
    """Return whether text is a reference of this form. Paths may hold `:` and `@` too: the last ones count.

    Examples:
        >>> is_typed("a@b:c.jpg:apple@1,2"), is_typed("photos/apple.jpg"), is_typed("C:/photos@home")
        (True, False, False)
    """
    found = _TYPED.fullmatch(source)
    return found is not None and not is_file(Path(source)) and not is_folder(Path(source))


def read_typed(source: str, images: Path | None = None) -> LabeledImages:
    """Read a reference that was typed.

    Args:
        source: See the module.
        images: Where the image is, if it is not found from where the program runs.

    Raises:
        AnnotationError: The numbers are not two or four, or not within the image.
        DataNotFoundError: There is no such image.
    """
    found = _TYPED.fullmatch(source)
    assert found is not None
    path = Path(found["image"])
    if images is not None and not is_file(path):
        path = images / path
    if not is_file(path):
        raise DataNotFoundError(f"the reference {source!r:.120}: there is no image {path}", remedy="check its path")
    builder = RecordBuilder(path.parent)
    place = f"the reference {source!r:.120}"
    record = builder.image(path, place)
    numbers = [number_in(text, "coordinates", place) for text in found["numbers"].split(",")]
    if len(numbers) == 4:
        x, y, width, height = numbers
        builder.add_box(record, found["label"], (x, y, width, height), place)
    elif len(numbers) == 2:
        builder.add_points(record, found["label"], [(numbers[0], numbers[1])], place)
    else:
        raise AnnotationError(f"{place}: expected 2 or 4 numbers, got {len(numbers)}", remedy=_REMEDY)
    return builder.build(source)
