"""Damaged and malicious files: whatever their bytes, a reader gives a valid result or an error of the project's.

Within two seconds and 500 MB, without a warning, and without writing a file. In the suite every target gets a few
files, always the same; with NTT_FUZZ_SECONDS each gets as many as fit into that time. Files that were found this way
are kept under corpus/, by the target's name.
"""

import os
import resource
import shutil
import time
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from no_time_to_train.errors import NoTimeToTrainError
from tests.fuzz.forms import Target
from tests.fuzz.mutation import damaged
from tests.fuzz.targets import MAKERS, target

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.rglob("*") if path.is_file())
SECONDS = float(os.environ.get("NTT_FUZZ_SECONDS", "0"))
EXAMPLES = 12
# Of the processor; other programs on the machine lengthen it, as they share its caches. The slowest of 23,600 damaged
# files took 0.63 s. What a reader needs once for all files, its imports, is done before.
MOST_SECONDS = 2.0
MOST_BYTES = 500 * 10**6

# torch tells of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated")


def files_in(folder: Path) -> set[tuple[Path, int]]:
    """Return all files with their sizes."""
    return {(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@cache
def ready(name: str) -> Target:
    """Return a reader that has read a valid file once, which is when it imports what it needs."""
    chosen = target(name)
    with TemporaryDirectory() as root:
        folder = Path(root) / "folder"  # what a reader may write, such as a lock of a cache, is not in it
        folder.mkdir()
        chosen.beside(folder)
        chosen.read(put(chosen.form.pack(chosen.form.parts[0]), chosen, folder))
    return chosen


def put(content: bytes, chosen: Target, folder: Path) -> Path:
    """Write a file where its reader expects it."""
    path = folder / chosen.name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return path


def read(content: bytes, chosen: Target, folder: Path) -> None:
    """Read one file, and check how that went.

    Time is that of this process, which others on the machine do not slow down; memory is the most that it ever held,
    so that what an earlier example needed does not count again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    chosen.beside(folder)
    path = put(content, chosen, folder)
    before = files_in(folder)
    peak, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with suppress(NoTimeToTrainError):
        chosen.read(path)
    seconds = time.process_time() - begin
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    # A cache removes what is damaged.
    assert files_in(folder) <= before
    assert seconds < MOST_SECONDS
    assert grown < MOST_BYTES


@pytest.mark.parametrize("name", MAKERS)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    """Without this the others would show nothing: each form that is damaged below is read when it is whole."""
    chosen = target(name)
    for parts in chosen.form.parts:
        folder = tmp_path / "valid"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        chosen.beside(folder)
        path = put(chosen.form.pack(parts), chosen, folder)
        if "legacy" in parts:
            continue  # three numbers, in no layout
        chosen.read(path)


def place_of(error: BaseException) -> str:
    """Return where in the project an error comes from, by which one fault is told from another."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "no_time_to_train" in frame.filename]
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else repr(error)


@pytest.mark.timeout(2 * SECONDS + 300)
@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    chosen, end = ready(name), time.monotonic() + SECONDS
    faults: dict[str, Path] = {}
    count, latest = 0, ("", b"")

    @settings(
        max_examples=200 if SECONDS else EXAMPLES,
        derandomize=not SECONDS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal count, latest
        count += 1
        content = data.draw(damaged(chosen.form))
        try:
            read(content, chosen, tmp_path / "folder")
        except Exception as error:
            if place_of(error) in faults:
                return
            # The last that hypothesis tries is the smallest.
            latest = place_of(error), content
            raise

    while count == 0 or time.monotonic() < end:
        try:
            check()
        except Exception:
            if not SECONDS or not latest[0] or latest[0] in faults:
                raise
            faults[latest[0]] = tmp_path / f"found-{len(faults)}"
            faults[latest[0]].write_bytes(latest[1])
    print(f"{name}: {count} files")
    assert {place: str(path) for place, path in faults.items()} == {}


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    read(path.read_bytes(), ready(path.parent.name), tmp_path / "folder")


def test_the_corpus_is_of_known_targets() -> None:
    assert FOUND
    assert {path.parent.name for path in FOUND} <= set(MAKERS)
    assert max(path.stat().st_size for path in FOUND) < 100_000
