"""JSON that anybody may have written: each key once, and no NaN or Infinity."""

import json
import re
from typing import Any

_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')
_SHOWN = 40


def parse_json(content: str | bytes) -> Any:
    """Read a JSON document.

    Python's own reader takes the last of several equal keys, and literals that JSON does not have.

    Args:
        content: The text, or its bytes in UTF-8, UTF-16 or UTF-32.

    Returns:
        Plain values.

    Raises:
        ValueError: It is not JSON, or an object has a key twice, or a value is NaN or infinite, or it is nested too
            deep. The message says what and where, without a newline.

    Examples:
        >>> parse_json('{"name": "cat"}')
        {'name': 'cat'}
        >>> parse_json('{"name": "cat", "name": "dog"}')
        Traceback (most recent call last):
        ValueError: the key 'name' is there twice in one object, with 'cat' and 'dog'
    """

    def refuse(constant: str) -> None:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content), "surrogatepass")
        place = next((match.start() for match in _CONSTANT.finditer(text) if match[1]), 0)
        raise ValueError(f"{constant} is not a JSON number: line {text.count(chr(10), 0, place) + 1}")

    try:
        return json.loads(content, object_pairs_hook=_each_key_once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        values = [_shown(value) for key, value in pairs if key == twice]
        raise ValueError(f"the key {twice!r:.{_SHOWN}} is there twice in one object, with {values[0]} and {values[1]}")
    return found


def _shown(value: Any) -> str:
    """Return a value as a message shows it; deep nesting would be too much for repr."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{value!r:.{_SHOWN}}"
