"""What a user reads of an error: one line, with a remedy."""

import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from no_time_to_train.errors import MissingExtraError, NoTimeToTrainError
from no_time_to_train.io.redact import printable, redact

if TYPE_CHECKING:
    from rich.console import Console

CHECK_PATH = "check the path, its permissions and the space that is left"
# What Python's tempfile says where neither TMPDIR nor the usual folders can be written to.
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
_NOISE = (
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a <class 'collections.abc.Mapping'>",
    "Problem with given class_path",
)
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}

# The libraries that come with extras, by the names that are imported.
EXTRAS = {
    "cv2": "draw",
    "matplotlib": "draw",
    "supervision": "draw",
    "faster_coco_eval": "eval",
    "equinox": "jax",
    "jax": "jax",
    "jax2onnx": "jax",
    "onnx_ir": "jax",
    "torch": "torch",
    "torchvision": "torch",
    "transformers": "torch",
    "lightning": "train",
    "torchmetrics": "train",
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


def in_one_line(error: BaseException, remedy: str) -> str:
    """Return what a user needs of an error.

    Args:
        error: One of this package, which has its own remedy; or of jsonargparse, which reports every branch of every
            union that it tried, of which the keys on the way, the leaf and the value matter; or any other.
        remedy: For those that have none.
    """
    own = _own(error)
    if own is not None:
        return printable(" ".join(str(own).split()))
    if _NO_TEMPORARY_FOLDER in str(error):
        remedy = "set TMPDIR to a folder that you may write to"
    keys: list[str] = []
    leaves: list[str] = []
    got = ""
    for line in (line.strip().removeprefix("- ") for line in str(error).splitlines()):
        key = re.fullmatch(r'Parser key "(.+)":(.*)', line)
        if key:
            keys.append(key[1])
            line = key[2].strip()
        if line.startswith("Given value: ") and not re.match(r"Given value: (Namespace\(|\{)", line):
            # The innermost comes first; of an option of a class, jsonargparse tells its own pair of name and value.
            value = re.sub(r"^NestedArg\(key=.*?, val=(.*)\)$", r"\1", line.removeprefix("Given value: "))
            got = got or f", got {redact(value):.60}"
        elif line and not line.startswith(_NOISE):
            leaves.append(line)
    place = f"{'.'.join(keys)}: " if keys else ""
    what = _in_words("; ".join(leaves))
    return printable(f"{place}{what}{'' if ', got ' in what else got} ({remedy})")


def _in_words(text: str) -> str:
    """Say the types that jsonargparse names in a user's words."""
    text = re.sub(r"Expected a <class '([\w.]+)'>", lambda kind: f"expected {_KINDS.get(kind[1], kind[1])}", text)
    text = re.sub(r"Expected a typing\.Literal\[([^]]*)\]", r"expected one of \1", text)
    text = re.sub(r"(?<=are required: ).+", lambda keys: re.sub(r"[\w-]+\.(\w+)", _option, keys[0]), text)
    return text.replace(". Got value: ", ", got ")


def _option(key: re.Match[str]) -> str:
    return f"--{key[1].replace('_', '-')}"


def missing_extra(error: BaseException, command: str) -> MissingExtraError | None:
    """Return what to tell a user whose installation lacks an extra, and None if that is not what is wrong.

    Args:
        error: As an import raised it.
        command: The command that needs the library.

    Examples:
        >>> print(missing_extra(ModuleNotFoundError(name="jax2onnx"), "ntt export"))
        ntt export needs jax2onnx, which is not installed (pip install "no-time-to-train[jax]")
    """
    name = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in EXTRAS or sys.modules.get(name) is not None:
        return None
    return MissingExtraError(
        f"{command} needs {name}, which is not installed", remedy=f'pip install "no-time-to-train[{EXTRAS[name]}]"'
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


def _own(error: BaseException | None) -> NoTimeToTrainError | None:
    """Find the error of this package that another library's was raised from."""
    while error is not None and not isinstance(error, NoTimeToTrainError):
        error = None if isinstance(error, OSError) else error.__cause__ or error.__context__
    return error


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
