"""What users name: patterns, lists of paths, and standard input."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from no_time_to_train.data.named.named_paths import named_paths
from no_time_to_train.errors import DataNotFoundError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of photographs, and go to the one that holds it."""
    for name in ("a.jpg", "b.png", "june/c.jpg", "june/deep/d.jpg", ".hidden/e.jpg", "[1].jpg", "overlays/a.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return shown(named_paths([Path("-")]))


def shown(paths: Sequence[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["[1].jpg", "a.jpg"]),
        ("**/*.jpg", ["[1].jpg", "a.jpg", "june/c.jpg", "june/deep/d.jpg", "overlays/a.jpg"]),
        ("[ab].*", ["a.jpg", "b.png"]),
        ("?.png", ["b.png"]),
        ("ju*", ["june"]),
        ("[1].jpg", ["[1].jpg"]),
        ("missing.jpg", ["missing.jpg"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_patterns_that_a_shell_left(photos: Path, pattern: str, found: list[str], absolute: bool) -> None:
    """A file of that very name comes first; what has no file and is no pattern is left to whoever opens it."""
    root = photos.absolute() if absolute else photos
    assert shown(named_paths([root / pattern])) == [(root / name).as_posix() for name in found]


def test_what_an_earlier_run_drew_matches_no_pattern(photos: Path) -> None:
    assert shown(named_paths([photos / "*" / "a.jpg"])) == ["photos/overlays/a.jpg"]
    assert "photos/overlays/a.jpg" not in shown(named_paths([photos / "**" / "*.jpg"], but=photos / "overlays"))
    with pytest.raises(DataNotFoundError, match="no file matches"):
        named_paths([photos / "*" / "a.jpg"], but=photos / "overlays")


def test_a_pattern_that_matches_nothing(photos: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no file matches photos/\*\.tiff \(check the pattern"):
        named_paths([photos / "a.jpg", photos / "*.tiff"])


@pytest.mark.parametrize(
    "content",
    [
        b"a.jpg\n\n# the rest of June\njune/*.jpg\n  june/deep  \n",
        b"\xef\xbb\xbfa.jpg\r\njune/*.jpg\r\njune/deep\r\n",
        "a.jpg\r\njune/*.jpg\r\njune/deep\r\n".encode("utf-16"),
        b"a.jpg\0june/*.jpg\0june/deep\0",
    ],
    ids=["comments", "UTF-8 of Windows", "UTF-16", "NUL"],
)
def test_a_list_is_relative_to_its_folder(photos: Path, content: bytes) -> None:
    (photos / "list.txt").write_bytes(content)
    expected = ["photos/a.jpg", "photos/june/c.jpg", "photos/june/deep"]
    assert shown(named_paths([photos / "list.txt"])) == expected
    assert shown(named_paths([Path("photos"), photos / "list.txt"])) == ["photos", *expected]


def test_absolute_paths_and_the_home_folder_in_a_list(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.absolute()))
    (photos / "june" / "list.txt").write_text(f"~/a.jpg\n{photos.absolute() / 'b.png'}\n")
    assert named_paths([photos / "june" / "list.txt"]) == [photos.absolute() / "a.jpg", photos.absolute() / "b.png"]


def test_bad_lines_are_named_by_their_numbers(photos: Path) -> None:
    lines = ["a.jpg", "", "# comment", "gone.jpg", "s3://bucket/x.jpg", "none*.jpg", "list.txt"]
    (photos / "list.txt").write_text("\n".join(lines))
    with pytest.raises(DataNotFoundError) as caught:
        named_paths([photos / "list.txt"])
    assert caught.value.message == (
        "photos/list.txt, line 4: there is no image and no folder photos/gone.jpg; "
        "line 5: a path is s3://bucket/x.jpg, expected a path on this machine; "
        "line 6: no file matches photos/none*.jpg; line 7: photos/list.txt is a list itself"
    )
    (photos / "list.txt").write_text("gone.jpg\n" * 7)
    with pytest.raises(DataNotFoundError, match=r"line 5: .*gone\.jpg; and 2 more \(correct the list"):
        named_paths([photos / "list.txt"])


@pytest.mark.parametrize("content", ["", "\n# nothing yet\n"])
def test_a_list_of_nothing(photos: Path, content: str) -> None:
    (photos / "list.txt").write_text(content)
    with pytest.raises(DataNotFoundError, match=r"photos/list\.txt names no images"):
        named_paths([photos / "list.txt"])


def test_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `find -print` and `find -print0` write it; `#` may begin a name."""
    assert typed(monkeypatch, b"photos/a.jpg\nphotos/june\n\n") == ["photos/a.jpg", "photos/june"]
    Path("#new\nline.jpg").touch()
    Path("#1.jpg").touch()
    assert typed(monkeypatch, b"#new\nline.jpg\0photos/b.png\0") == ["#new\nline.jpg", "photos/b.png"]
    assert typed(monkeypatch, b"#1.jpg\r\n") == ["#1.jpg"]
    with pytest.raises(DataNotFoundError, match=r"standard input, line 2: there is no image and no folder gone\.jpg"):
        typed(monkeypatch, b"photos/a.jpg\ngone.jpg\n")
    with pytest.raises(DataNotFoundError, match=r"standard input, entry 1: .*gone\.jpg"):
        typed(monkeypatch, b"gone.jpg\0photos/a.jpg\0")
    with pytest.raises(DataNotFoundError, match="standard input names no images"):
        typed(monkeypatch, b"")
