"""Words for what a user reads: names, numbers, what is missing, and how text is printed."""

import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from no_time_to_train.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console


# The libraries that come with extras, by the names that are imported.
EXTRAS = {
    "av": "video",
    "cv2": "draw",
    "matplotlib": "draw",
    "supervision": "draw",
    "faster_coco_eval": "eval",
    "equinox": "jax",
    "jax": "jax",
    "jax2onnx": "jax",
    "lz4": "jax",
    "onnx_ir": "jax",
    "torch": "torch",
    "torchvision": "torch",
    "transformers": "torch",
    "jsonargparse": "train",
    "lightning": "train",
    "torchmetrics": "train",
    "typeshed_client": "train",
}


def can_be_written(text: str) -> bool:
    """Return whether text can be written as UTF-8: half of a surrogate pair, which JSON may hold, cannot.

    Examples:
        >>> can_be_written("buoy"), can_be_written(chr(0xD800))
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_console() -> "Console":
    """Return a console for standard output that prints text and tables as they are.

    Paths and names of classes may hold `[/x]` or `:smile:`, which rich takes for its own markup otherwise.
    """
    from rich.console import Console  # `ntt --help` prints without it

    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False)


def missing_extra(said: str, needed_by: str) -> MissingExtraError | None:
    """Return what to tell a user whose installation lacks an extra, and None if that is not what is wrong.

    Args:
        said: What the import said.
        needed_by: The command or the setting that needs the library.

    Examples:
        >>> print(missing_extra("No module named 'faster_coco_eval'", "average precision"))
        average precision needs faster_coco_eval, which is not installed (pip install "no-time-to-train[eval]")
    """
    # The second is what is said of a module that was blocked.
    found = re.search(r"(?:No module named '|import of )(\w+)", said)
    if found is None or found[1] not in EXTRAS or sys.modules.get(found[1]) is not None:
        return None
    return MissingExtraError(
        f"{needed_by} needs {found[1]}, which is not installed",
        remedy=f'pip install "no-time-to-train[{EXTRAS[found[1]]}]"',
    )


def first_of(names: Sequence[str], most: int = 10) -> str:
    """Return the first of several names, and dots if there are more.

    Examples:
        >>> first_of(["a", "b", "c"], most=2)
        'a, b, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a question that names what was probably meant, with a space after it; empty if nothing is near.

    Examples:
        >>> nearest("points_per_sid", ["iou_thr", "points_per_side"])
        'did you mean points_per_side? '
        >>> nearest("colour", ["iou_thr"])
        ''
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}? " if found else ""


def small_number(value: float | None) -> str:
    """Write a number that may be of any size; nothing for none.

    Examples:
        >>> small_number(0.00012345), small_number(12.345), small_number(0.0), small_number(None)
        ('1.2e-04', '12', '0', '')
    """
    return "" if value is None else "0" if value == 0 else f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.1e}"


def finite(value: Any) -> Any:
    """Return lists and mappings with None for the numbers that JSON does not know.

    Examples:
        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
