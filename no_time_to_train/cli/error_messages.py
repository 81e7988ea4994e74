"""Turn an error into the line that a user reads, with a remedy, and an exit status."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.io.messages import missing_extra
from no_time_to_train.io.paths import without_home
from no_time_to_train.io.process import BAD_INPUT, check_arguments, is_out_of_memory
from no_time_to_train.io.redact import printable, redact, remember_link

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


def run_command(
    command: Callable[[list[str]], Any], args: Sequence[str], describe: Callable[[Exception], str | None]
) -> int:
    """Run a command on its arguments, and turn what goes wrong into one line and an exit status.

    Args:
        command: Takes the arguments; what it returns is the exit status if it is a whole number.
        args: The arguments; `--debug` is taken out, and shows the traceback.
        describe: Gives an error in one line, or None if it is not the user's to mend.

    Returns:
        The exit status: the command's, or 0, 2 after bad input, or 130 after Ctrl-C.
    """
    given = [arg for arg in args if arg != "--debug"]
    for arg in given:
        remember_link(arg)
    try:
        check_arguments(given)
        status = command(given)
    except Exception as error:
        message = describe(error)
        # `program` answers the others, with statuses of their own.
        if "--debug" in args or message is None or isinstance(error, BrokenPipeError) or is_out_of_memory(error):
            raise
        print(f"error: {without_home(message)}", file=sys.stderr, flush=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: nothing is half-written, and the same command can be run again", file=sys.stderr)
        return 130
    return status if isinstance(status, int) else 0


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
    what = _in_words("; ".join(leaves))
    missing = missing_extra(what, ".".join(keys) or "this")
    if missing is not None:
        return str(missing)
    place = f"{'.'.join(keys)}: " if keys else ""
    return printable(f"{place}{what}{'' if ', got ' in what else got} ({remedy})")


def _in_words(text: str) -> str:
    """Say the types that jsonargparse names in a user's words."""
    text = re.sub(r"Expected a <class '([\w.]+)'>", lambda kind: f"expected {_KINDS.get(kind[1], kind[1])}", text)
    text = re.sub(r"Expected a typing\.Literal\[([^]]*)\]", r"expected one of \1", text)
    text = re.sub(r"(?<=are required: ).+", lambda keys: re.sub(r"[\w-]+\.(\w+)", _option, keys[0]), text)
    return text.replace(". Got value: ", ", got ")


def _option(key: re.Match[str]) -> str:
    return f"--{key[1].replace('_', '-')}"


def _own(error: BaseException | None) -> NoTimeToTrainError | None:
    """Find the error of this package that another library's was raised from."""
    while error is not None and not isinstance(error, NoTimeToTrainError):
        error = None if isinstance(error, OSError) else error.__cause__ or error.__context__
    return error
