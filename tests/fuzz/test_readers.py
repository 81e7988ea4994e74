"""Damaged and malicious files: whatever their bytes, a reader gives a valid result or an error of the project's.

Within two seconds and 500 MB, without a warning, and without writing a file. In the suite every target gets a few
files, always the same; with NTT_FUZZ_SECONDS each gets as many as fit into that time. Files that were found this way
are kept under corpus/, by the target's name.
"""

import os
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from no_time_to_train.errors import NoTimeToTrainError
from tests.fuzz.mutation import damaged
from tests.fuzz.targets import MAKERS, Target, target

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.rglob("*") if path.is_file())
SECONDS = float(os.environ.get("NTT_FUZZ_SECONDS", "0"))
EXAMPLES = 12
MOST_SECONDS = 2.0
MOST_BYTES = 500 * 10**6

# torch tells of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated")


def files_in(folder: Path) -> set[tuple[Path, int]]:
    """Return all files with their sizes."""
    return {(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def read(content: bytes, chosen: Target, folder: Path) -> None:
    """Read one file, and check how that went.

    Time is that of this process, which others on the machine do not slow down; memory is the most that it ever held,
    so that what an earlier example needed does not count again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    chosen.beside(folder)
    path = folder / chosen.name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
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
        path = folder / chosen.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chosen.form.pack(parts))
        if "legacy" in parts:
            continue  # three numbers, in no layout
        chosen.read(path)


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    chosen, end = target(name), time.monotonic() + SECONDS
    found, count = tmp_path / f"found-{name}", 0

    @settings(
        max_examples=2000 if SECONDS else EXAMPLES,
        derandomize=not SECONDS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal count
        if SECONDS and time.monotonic() > end:
            return
        count += 1
        content = data.draw(damaged(chosen.form))
        try:
            read(content, chosen, tmp_path / "folder")
        except BaseException:
            # hypothesis ends with the smallest that fails, which stays.
            found.write_bytes(content)
            raise

    try:
        check()
        while SECONDS and time.monotonic() < end:
            check()
    except BaseException as error:
        error.add_note(f"found: {found}")
        raise
    print(f"{name}: {count} files")


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    read(path.read_bytes(), target(path.parent.name), tmp_path / "folder")


def test_the_corpus_is_of_known_targets() -> None:
    assert FOUND
    assert {path.parent.name for path in FOUND} <= set(MAKERS)
    assert max(path.stat().st_size for path in FOUND) < 100_000
