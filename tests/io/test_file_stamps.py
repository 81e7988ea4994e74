"""Stamps: what they see of a file that was replaced, and what they do not read again."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from no_time_to_train.io.file_stamps import FileStamp


def stamp_of(path: Path) -> FileStamp:
    with path.open("rb") as stream:
        stream.seek(3)
        stamp = FileStamp.of(stream)
        assert stream.tell() == 3
    return stamp


def write(path: Path, content: bytes, times: os.stat_result | None = None) -> None:
    path.write_bytes(content)
    if times is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "a.jpg", b"one one one")
    return tmp_path / "a.jpg"


def test_a_file_of_the_same_size_and_time_is_another_one(file: Path, tmp_path: Path) -> None:
    """Settled or not, written in place or put in its place."""
    times = file.stat()
    for settled in (True, False):
        stamp = replace(stamp_of(file), settled=settled)
        assert stamp.same_content(file)
        write(tmp_path / "other", b"two two two", times)
        (tmp_path / "other").replace(file)
        assert not stamp.same_content(file)
        write(file, b"one one one", times)
        assert stamp.same_content(file)
        write(file, b"two two two", times)
        assert not stamp.same_content(file)
        write(file, b"one one one", times)


def test_the_same_content_stays_the_same_file(file: Path, tmp_path: Path) -> None:
    """A copy, and a file that was touched, are looked into."""
    stamp = stamp_of(file)
    os.utime(file, ns=(1, 1))
    (tmp_path / "copy").write_bytes(file.read_bytes())
    assert stamp.same_content(file)
    assert stamp.same_content(tmp_path / "copy")
    write(file, b"one one one and more")
    assert not stamp.same_content(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        stamp.same_content(file)


def test_a_settled_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had just been written may be written again within one step of the file system's time."""
    stamp = stamp_of(file)
    assert not stamp.settled
    monkeypatch.setattr("no_time_to_train.io.file_stamps.time.time_ns", lambda: file.stat().st_ctime_ns + 3 * 10**9)
    settled = stamp_of(file)
    assert settled == replace(stamp, settled=True)
    # A wrong hash shows whether hashes were compared.
    assert replace(settled, sha256="").same_content(file)
    assert not replace(stamp, sha256="").same_content(file)
    # A clock that was set back settles nothing.
    monkeypatch.setattr("no_time_to_train.io.file_stamps.time.time_ns", lambda: 0)
    assert not stamp_of(file).settled


def test_json_and_back(file: Path) -> None:
    stamp = stamp_of(file)
    assert FileStamp.from_json(stamp.to_json()) == stamp
    for wrong in ([1, 2], {}, stamp.to_json() | {"size": "1"}, stamp.to_json() | {"settled": 1}, None):
        with pytest.raises(ValueError, match="expected the values of a stamp"):
            FileStamp.from_json(wrong)
