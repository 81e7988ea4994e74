"""What the Hub says of a repository's files, and what it cannot say."""

from typing import Any

import pytest

from no_time_to_train.weights.http.download import Digest
from no_time_to_train.weights.hub.client import Listed, checked_size, read_listing

GIT, SHA256 = "0123456789" * 4, "01234567" * 8


@pytest.mark.parametrize(
    ("sibling", "expected"),
    [
        ({}, Listed("it", None, None)),
        ({"size": 0}, Listed("it", 0, None)),
        ({"size": 5, "blobId": GIT}, Listed("it", 5, Digest("git", GIT))),
        # A hash without a size is of no use.
        ({"blobId": GIT}, Listed("it", None, None)),
        # What stands for a large file is small, and has a hash of its own.
        ({"size": 5, "blobId": GIT, "lfs": {"size": 70, "sha256": SHA256}}, Listed("it", 70, Digest("sha256", SHA256))),
    ],
)
def test_files_of_a_repository(sibling: dict[str, Any], expected: Listed) -> None:
    listing = read_listing({"sha": "abc", "siblings": [{"rfilename": "it", **sibling}]})
    assert listing.commit == "abc"
    assert listing.files == {"it": expected}


def test_a_repository_without_files() -> None:
    assert read_listing({"sha": None, "siblings": None}).files == {}
    assert read_listing({"sha": None}).commit is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"sha": "a" * 65},
        {"sha": "a/b"},
        {"sha": "abc", "siblings": [{}]},
        {"sha": "abc", "siblings": [{"rfilename": 5}]},
        {"sha": "abc", "siblings": [{"rfilename": "it", "size": 5, "blobId": SHA256}]},
        {"sha": "abc", "siblings": [{"rfilename": "it", "lfs": {"size": 5, "sha256": GIT}}]},
        {"sha": "abc", "siblings": [{"rfilename": "it", "lfs": {"sha256": SHA256}}]},
    ],
)
def test_what_the_hub_does_not_say(content: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        read_listing(content)


def test_sizes_that_files_have() -> None:
    assert [checked_size(size) for size in (None, 0, 1 << 50)] == [None, 0, 1 << 50]
    for size in (-1, (1 << 50) + 1, 5.0, "5", True):
        with pytest.raises(ValueError, match="size"):
            checked_size(size)
