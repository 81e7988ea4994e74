"""A feature cache with damaged entries, files in its way, a full disk, and folders that it cannot use."""

import errno
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from no_time_to_train.errors import ConfigError, OutputError
from no_time_to_train.io.stale_files import unfinished_name
from no_time_to_train.models.cache.feature_cache import FeatureCache
from tests.models.test_feature_cache import ROOMY, file_of, files_of, kilobyte, size_of


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", ROOMY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: bytes(len(content)),
        lambda content: content[:-500] + bytes([content[-500] ^ 1]) + content[-499:],
        lambda content: content.replace(b"feature cache 1", b"feature cache 0"),
        lambda content: content.replace(b"[256]", b"[128]"),
        lambda content: content.replace(b"F32", b"I32"),
    ],
)
def test_a_damaged_entry_is_removed_and_made_anew(cache: FeatureCache, damage: Any, caplog: Any) -> None:
    cache.put("key", kilobyte(1))
    path = file_of(cache, "key")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert cache.get("key") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "damaged" in record.message
    assert "\n" not in record.message
    assert files_of(cache.folder) == []
    cache.put("key", kilobyte(1))
    assert cache.get("key") is not None


def test_no_flipped_byte_reads_wrong(cache: FeatureCache) -> None:
    cache.put("key", {"value": torch.arange(8.0)})
    path = file_of(cache, "key")
    whole = path.read_bytes()
    for position in range(len(whole)):
        for flip in (0x01, 0xFF):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :])
            found = cache.get("key")
            assert found is None or torch.equal(found["value"], torch.arange(8.0))


def test_an_entry_of_another_key_or_tool_is_removed(cache: FeatureCache) -> None:
    cache.put("one", kilobyte())
    file_of(cache, "two").parent.mkdir(exist_ok=True)
    file_of(cache, "one").rename(file_of(cache, "two"))
    assert cache.get("two") is None
    assert files_of(cache.folder) == []
    save_file(kilobyte(), file_of(cache, "two"))
    assert cache.get("two") is None
    assert files_of(cache.folder) == []


def test_what_is_not_the_caches_own_is_never_touched(tmp_path: Path) -> None:
    digest = "ab" + "0" * 62
    foreign = [
        tmp_path / "photo.jpg",
        tmp_path / "ab" / "photo.jpg",
        tmp_path / "ab" / f"{digest}.safetensors",
        tmp_path / "ab" / f".{digest}.0123456789ab.safetensors",
        tmp_path / "ab" / f"{digest}.ntt-features.safetensors.bak",
        tmp_path / "sub" / f"{digest}.ntt-features.safetensors",
        tmp_path / f"{digest}.ntt-features.safetensors",
        tmp_path / "cd",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
        os.utime(path, (1, 1))
    cache = FeatureCache(tmp_path, 3000)
    for index in range(20):
        key = next(key for n in range(1000) if not _digest(key := f"{index} {n}").startswith("cd"))
        cache.put(key, kilobyte(index))
    assert cache.written == 20
    assert {path: path.read_bytes() for path in foreign} == dict.fromkeys(foreign, bytes(5000))
    assert len(files_of(tmp_path)) <= len(foreign) + 2


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_file_in_the_way_costs_only_the_entry(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / _digest("key")[:2]).write_text("mine")
    cache = FeatureCache(tmp_path, ROOMY)
    assert cache.get("key") is None
    cache.put("key", kilobyte())
    assert cache.get("key") is None
    assert [path.read_text() for path in files_of(tmp_path)] == ["mine"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["entry", "folder"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    cache = FeatureCache(tmp_path, max_bytes=10**6)
    cache.put("a", {"x": torch.ones(2)})
    (entry,) = tmp_path.rglob("*.safetensors")
    if kind == "entry":
        entry.unlink()
        os.mkfifo(entry)
        assert cache.get("a") is None
        cache.put("a", {"x": torch.ones(2)})
    else:
        os.mkfifo(tmp_path / ("00" if entry.parent.name != "00" else "01"))
        # It looks for room, and for what killed processes left.
        assert FeatureCache(tmp_path, max_bytes=10**6)._make_room() == entry.stat().st_size
    assert cache.get("a") is not None


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    left, other = (tmp_path / folder / unfinished_name(Path("a.safetensors")) for folder in ("ab", "mine"))
    for path in (left, other):
        path.parent.mkdir()
        path.touch()
    FeatureCache(tmp_path, ROOMY).put("key", kilobyte())
    assert not left.exists()
    assert other.exists()


def test_a_full_disk_is_told_once_and_reading_goes_on(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    cache.put("before", kilobyte())

    def failing(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", failing)
        for index in range(3):
            cache.put(f"{index}", kilobyte())
    cache.put("after", kilobyte())
    (record,) = caplog.records
    assert "No space left on device" in record.message
    assert (cache.get("0"), cache.get("after")) == (None, None)
    assert cache.get("before") is not None
    assert len(files_of(cache.folder)) == 1


def test_entries_that_cannot_be_removed_end_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    unlink = Path.unlink

    def refusing(self: Path, missing_ok: bool = False) -> None:
        if not self.name.startswith("."):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    cache = FeatureCache(tmp_path, 5000)
    for index in range(50):
        cache.put(f"{index}", kilobyte())
    assert size_of(tmp_path) < 7000
    assert len(caplog.records) == 1
    assert "cannot be removed" in caplog.text


def test_a_folder_that_cannot_be_used_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(OutputError, match="name a folder that you may write to"):
            FeatureCache(folder, ROOMY)

    def refusing(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    with pytest.raises(OutputError, match="Read-only file system"):
        FeatureCache(tmp_path, ROOMY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="name a folder that you may write to"):
            FeatureCache(tmp_path, ROOMY)
    finally:
        tmp_path.chmod(0o700)


def test_a_cache_of_no_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise max_bytes"):
        FeatureCache(tmp_path, 0)
