"""Valid files, changed as damage or malice would change them: in their bytes, and in the JSON within."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Parts = Mapping[str, bytes]

_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**63 - 1, 2**64 - 1)
_TOKENS = (
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b"\\ud800",
        b"\\u0000",
    ),
    *(
        b"9" * 30,
        b"1" * 5000,
        b"[" * 3000,
        b"{" * 500,
        b'{"a":' * 2000,
        b"(" * 300,
        b"-" * 3000,
        b"\x00",
        b"\xff",
        b"../",
    ),
    *(
        b"'",
        b'"',
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x80\x04",
        b".",
        b"R",
        b"c",
        b"(",
        b"2",
        b"&a [*a]",
        b"<<: *a",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**53 + 1, 2**63, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "", "a", "\ud800", "\x00", "../x", "x" * 300, "1", "None"),
    *([], [[]], [1], [0, 0], [1, 2, 3, 4], [-1, 2**40], {}, {"a": 1}, [[[[[[1]]]]]], ["a"], [None], {"": None}),
)


@dataclass(frozen=True)
class Form:
    """How a file is put together of its parts.

    Attributes:
        parts: Of valid files, each with its parts by their names; those that end in `.json` are JSON objects.
        pack: Puts parts together to the file's bytes.
    """

    parts: tuple[Parts, ...]
    pack: Callable[[Parts], bytes]


@st.composite
def damaged(draw: st.DrawFn, form: Form) -> bytes:
    """Draw a file of this form: valid ones too, most of them damaged in one place or a few."""
    parts = dict(draw(st.sampled_from(form.parts)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(parts)))
        if name.endswith(".json") and draw(st.booleans()):
            parts[name] = draw(_other_json(parts[name]))
        else:
            parts[name] = draw(_other_bytes(parts[name]))
    whole = form.pack(parts)
    return draw(_other_bytes(whole)) if draw(st.integers(0, 3)) == 0 else whole


@st.composite
def _other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    # Small numbers are places from either end, where headers and directories are.
    size = len(content)
    place = min(size, draw(st.one_of(st.integers(0, size), st.integers(0, min(size, 64)))))
    place = size - place if draw(st.booleans()) else place
    before, after = content[:place], content[place:]
    kind = draw(st.sampled_from(("flip", "cut", "number", "drop", "twice", "token", "bytes")))
    if kind == "cut":
        return before
    if kind == "flip" and after:
        return before + bytes([after[0] ^ (1 << draw(st.integers(0, 7)))]) + after[1:]
    if kind == "number":
        width = draw(st.sampled_from("BHIQ"))
        number = draw(st.sampled_from(_NUMBERS)) % (1 << 8 * struct.calcsize(width))
        packed = struct.pack(draw(st.sampled_from("<>")) + width, number)
        return before + packed + after[len(packed) :]
    if kind == "drop":
        return before + after[draw(st.integers(1, 64)) :]
    if kind == "twice":
        return before + after[: draw(st.integers(1, 64))] + after
    if kind == "token":
        return before + draw(st.sampled_from(_TOKENS)) + after
    return before + draw(st.binary(max_size=16)) + after


@st.composite
def _other_json(draw: st.DrawFn, content: bytes) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # an earlier step made it so
        return content
    places = list(_places(document))
    if not places:
        return json.dumps(draw(st.sampled_from(_VALUES))).encode()
    holder, key = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(("value", "value", "remove", "rename", "swap", "nest")))
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("", "a", "\ud800", "x" * 300, "__metadata__", "1")))] = holder.pop(key)
    elif kind == "swap":
        other, place = draw(st.sampled_from(places))
        holder[key] = json.loads(json.dumps(other[place]))
    elif kind == "nest":
        holder[key] = [holder[key]] if draw(st.booleans()) else {"a": holder[key]}
    else:
        holder[key] = draw(st.sampled_from(_VALUES))
    return json.dumps(document).encode()


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Return every container in a document with each of its keys, the outermost first."""
    if depth > 8 or not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(min(len(value), 50)))
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in _places(value[key], depth + 1)]
