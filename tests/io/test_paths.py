"""Paths as they are shown."""

import pytest

from no_time_to_train.io.paths import path_as_named


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("/home/somebody/a/b.jpg", "b.jpg"),
        ("../somebody/b.jpg", "b.jpg"),
        ("~/a/b.jpg", "b.jpg"),
        ("C:\\Users\\somebody\\b.jpg", "b.jpg"),
        ("\\\\server\\somebody\\b.jpg", "b.jpg"),
    ],
)
def test_names_that_are_shown(name: str, shown: str) -> None:
    assert path_as_named(name) == shown
