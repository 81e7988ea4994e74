"""JSON from files that anybody may have written."""

from pathlib import Path
from typing import Any

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.io.paths import read_regular
from no_time_to_train.io.strict_json import parse_json

FETCH_AGAIN = "fetch the file again, it may have been cut off while it was copied"


def parse_object(content: str | bytes, source: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        content: The text.
        source: Where it is from, for messages.

    Raises:
        WeightsFormatError: It is not valid JSON, or has a key twice, or is not an object.
    """
    try:
        found = parse_json(content)
    except ValueError as error:
        raise WeightsFormatError(f"{source} is not valid JSON: {error}", remedy=FETCH_AGAIN) from error
    if not isinstance(found, dict):
        raise WeightsFormatError(f"{source} holds a {type(found).__name__}, expected an object", remedy=FETCH_AGAIN)
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; see `parse_object`.

    Raises:
        WeightsFormatError: It holds none, or cannot be read.
    """
    try:
        return parse_object(read_regular(path), path)
    except OSError as error:
        raise WeightsFormatError(f"cannot read {path}: {error.strerror}", remedy="check its permissions") from error
