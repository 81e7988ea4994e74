"""JSON is read as it was meant, or not at all."""

import json
from typing import Any

import pytest

from no_time_to_train.io.strict_json import parse_json


@pytest.mark.parametrize(
    "value", [None, True, 3, -0.5, "NaN", "", [], {}, {"a": {"a": [1, {"a": "ä"}]}, "b": 1}, [{"x": 1}, {"x": 2}]]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_what_json_allows_is_read(value: Any, encoding: str) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text) == parse_json(text.encode(encoding)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice in one object, with 1 and 3"),
        ('[{"x": {"a": [1], "a": {}}}]', "the key 'a' is there twice in one object, with a list and an object"),
        ('{"a": 1, "\\u0061": 2}', "the key 'a' is there twice"),
        ('{"NaN": 1,\n "b": NaN}', "NaN is not a JSON number: line 2"),
        ("[1,\n\n-Infinity]", "-Infinity is not a JSON number: line 3"),
        ("[Infinity]", "Infinity is not a JSON number: line 1"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"' + "k" * 500 + '": 1, "' + "k" * 500 + '": "' + "v" * 500 + '"}', "k+ is there twice"),
        ("{", "line 1"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_not_json_or_could_mean_two_things_is_refused(text: str, message: str) -> None:
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match=message) as caught:
            parse_json(content)
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


def test_bytes_of_no_encoding_are_refused() -> None:
    with pytest.raises(ValueError, match="codec"):
        parse_json(b"\xff\xff\xff")
