"""The cache gives back what was put or nothing, stays within its bounds, and touches nothing that is not its own."""

import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from no_time_to_train.errors import ConfigError
from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key
from tests.models import feature_cache_processes as processes

ROOT = Path(__file__).parents[2]
ROOMY = 10_000_000


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_of(folder))


def kilobyte(value: int = 0) -> dict[str, Tensor]:
    """With its header, an entry of this takes about 1,300 bytes."""
    return {"value": torch.full((256,), float(value))}


def file_of(cache: FeatureCache, key: str) -> Path:
    """Find the file of an entry by writing it alone."""
    with tempfile.TemporaryDirectory() as name:
        alone = FeatureCache(Path(name), ROOMY)
        alone.put(key, kilobyte())
        (path,) = files_of(Path(name))
        return cache.folder / path.relative_to(name)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", ROOMY)


def test_what_was_put_comes_back_with_every_bit(cache: FeatureCache) -> None:
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "whole": torch.arange(6).reshape(2, 3),
        "flags": torch.tensor([True, False]),
        "number": torch.tensor(1.5),
        "none": torch.empty(0, 7),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
    }
    cache.put("key", tensors)
    found = cache.get("key")
    assert found is not None
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert FeatureCache(cache.folder, ROOMY).get("key") is not None


def test_strided_shared_and_differentiable_tensors_are_taken(cache: FeatureCache) -> None:
    base = torch.randn(4, 6)
    cache.put("key", {"base": base, "turned": base.T, "part": base[1:3, ::2], "leaf": base.clone().requires_grad_()})
    found = cache.get("key")
    assert found is not None
    assert torch.equal(found["base"], base)
    assert torch.equal(found["turned"], base.T)
    assert torch.equal(found["part"], base[1:3, ::2])
    assert torch.equal(found["leaf"], base)


def test_an_entry_may_hold_no_tensors(cache: FeatureCache) -> None:
    cache.put("key", {})
    assert cache.get("key") == {}


def test_counters_say_what_was_found_and_written(cache: FeatureCache) -> None:
    assert cache.get("key") is None
    cache.put("key", kilobyte())
    cache.get("key")
    cache.get("key")
    assert (cache.hits, cache.misses, cache.written) == (2, 1, 1)


def test_keys_may_be_any_text(cache: FeatureCache) -> None:
    keys = ["", "a/b", "../up", "ü" * 5000, "line\nbreak", "\udcff", "\0"]
    for index, key in enumerate(keys):
        cache.put(key, kilobyte(index))
    for index, key in enumerate(keys):
        found = cache.get(key)
        assert found is not None
        assert torch.equal(found["value"], kilobyte(index)["value"])
    assert len(files_of(cache.folder)) == len(keys)
    assert [path.name for path in cache.folder.parent.iterdir()] == ["cache"]


def test_hits_misses_and_entries_are_counted(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "made" / "with it" / "cache", ROOMY)
    cache.put("one", kilobyte())
    cache.put("two", kilobyte())
    assert [cache.get(key) is not None for key in ("one", "two", "one", "three")] == [True, True, True, False]
    assert (cache.written, cache.hits, cache.misses) == (2, 3, 1)


def test_a_new_value_takes_the_place_of_the_old(cache: FeatureCache) -> None:
    cache.put("key", kilobyte(1))
    old = cache.get("key")
    cache.put("key", kilobyte(2))
    new = cache.get("key")
    assert old is not None
    assert new is not None
    assert (float(old["value"][0]), float(new["value"][0])) == (1, 2)
    assert len(files_of(cache.folder)) == 1


def test_tensors_stay_when_their_file_goes(cache: FeatureCache) -> None:
    cache.put("key", kilobyte(7))
    found = cache.get("key")
    path = file_of(cache, "key")
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert found is not None
    assert torch.equal(found["value"], kilobyte(7)["value"])
    found["value"] += 1


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    FeatureCache(tmp_path / "one", ROOMY).put("0", kilobyte())
    room = 5 * size_of(tmp_path / "one") + 100
    cache = FeatureCache(tmp_path / "cache", room)
    for index in range(5):
        cache.put(f"{index}", kilobyte(index))
        os.utime(file_of(cache, f"{index}"), (1000 + index, 1000 + index))
    assert cache.get("0") is not None
    cache.put("new", kilobyte())
    # Nine tenths of the room hold four.
    assert [key for key in ("0", "1", "2", "3", "4", "new") if cache.get(key)] == ["0", "3", "4", "new"]
    assert size_of(cache.folder) <= room * 0.9


def test_the_folder_stays_within_its_bounds(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 40_000)
    for index in range(120):
        cache.put(f"{index}", kilobyte(index))
        assert size_of(tmp_path) <= 40_000
    assert cache.written == 120
    assert cache.get("119") is not None
    # One that comes upon a folder that is too large does away with what is too much.
    FeatureCache(tmp_path, 5000).put("new", kilobyte())
    assert size_of(tmp_path) <= 5000


def test_two_that_write_by_turns_hardly_exceed_the_bounds(tmp_path: Path) -> None:
    caches = [FeatureCache(tmp_path, 40_000) for _ in range(2)]
    for index in range(120):
        caches[index % 2].put(f"{index}", kilobyte(index))
        assert size_of(tmp_path) <= 40_000 * (1 + 2 / 16) + 2 * 1400
    assert [cache.written for cache in caches] == [60, 60]


def test_the_folder_is_seldom_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = []
    list_entries = FeatureCache._entries

    def counted(self: FeatureCache) -> Any:
        listings.append(self)
        return list_entries(self)

    monkeypatch.setattr(FeatureCache, "_entries", counted)
    cache = FeatureCache(tmp_path, 100 * 1400)
    for index in range(200):
        cache.put(f"{index}", kilobyte(index))
    assert 2 <= len(listings) <= 60


def test_too_large_an_entry_is_not_written(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 1200)
    cache.put("small", {"value": torch.zeros(10)})
    cache.put("large", {"value": torch.zeros(1000)})
    cache.put("large with its header", {"value": torch.zeros(290)})
    assert len(files_of(tmp_path)) == 1
    assert cache.get("small") is not None
    assert cache.get("large") is None


def test_a_cache_goes_to_other_processes(cache: FeatureCache) -> None:
    cache.put("key", kilobyte())
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.get("key") is not None
    assert (copy.folder, copy.max_bytes, copy.hits, copy.written) == (cache.folder, cache.max_bytes, 1, 0)


def test_threads_share_a_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 20_000)

    def use(index: int) -> bool:
        key = index % 25
        found = cache.get(f"{key}")
        if found is None:
            cache.put(f"{key}", kilobyte(key))
        return found is None or torch.equal(found["value"], kilobyte(key)["value"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(300)))
    assert cache.hits + cache.misses == 300
    assert cache.written == cache.misses
    assert size_of(tmp_path) <= 20_000


def run_processes(what: str, folder: Path) -> None:
    command = [sys.executable, "-m", processes.__name__, what, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_processes_share_a_small_cache(tmp_path: Path) -> None:
    run_processes("share", tmp_path)
    assert files_of(tmp_path)
    # At worst each of the three has written a sixteenth more than it may, and the entry at hand.
    assert size_of(tmp_path) <= processes.MAX_BYTES * (1 + 3 / 16) + 3 * 9000


def test_processes_that_are_killed_leave_nothing_that_reads_wrong(tmp_path: Path, caplog: Any) -> None:
    run_processes("kill", tmp_path)
    cache = FeatureCache(tmp_path, ROOMY)
    for key in processes.KEYS:
        found = cache.get(key)
        assert found is None or torch.equal(found["value"], processes.value_of(key))
    assert cache.hits
    assert not caplog.records
    for path in files_of(tmp_path):
        os.utime(path, (1, 1))
    FeatureCache(tmp_path, processes.MAX_BYTES).put("new", kilobyte())
    assert not [path for path in files_of(tmp_path) if path.name.startswith(".")]


def test_content_keys_tell_parts_apart() -> None:
    pixels = torch.arange(12, dtype=torch.uint8)
    parts: list[tuple[str | bytes | Tensor | np.ndarray, ...]] = [
        (),
        ("",),
        ("", ""),
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        (b"ab",),
        ("a", b"b"),
        ("astrb",),
        ("3:str2:ab",),
        (pixels,),
        (pixels.reshape(3, 4),),
        (pixels.reshape(4, 3),),
        (pixels.view(torch.int8),),
        (pixels[:6], pixels[6:]),
        (pixels.numpy(),),
        (pixels.numpy().tobytes(),),
        (pixels.float(),),
        (pixels.numpy().astype(">u2"),),
        (pixels.numpy().astype("<u2"),),
        (torch.empty(0),),
        (torch.empty(0, 3),),
        (torch.tensor(0.0),),
        (torch.zeros(1),),
    ]
    assert len({content_key(*some) for some in parts}) == len(parts)


def test_content_keys_depend_on_values_only() -> None:
    pixels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    key = content_key("a", pixels)
    assert len(key) == 64
    assert content_key("a", pixels.clone()) == key
    assert content_key("a", pixels.permute(2, 0, 1).contiguous().permute(1, 2, 0)) == key
    array = pixels.numpy()
    assert content_key(array) == content_key(np.asfortranarray(array))
    assert content_key(torch.ones(3, dtype=torch.bfloat16)) != content_key(torch.ones(3, dtype=torch.float16))
    with pytest.raises(ConfigError, match="give numbers or text"):
        content_key(np.array([object()]))
