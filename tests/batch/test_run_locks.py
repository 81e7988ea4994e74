"""Two runs never write into one folder of results at once."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from no_time_to_train.batch.run_locks import sole_run
from no_time_to_train.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from no_time_to_train.batch.run_locks import sole_run
with sole_run(Path(sys.argv[1]), "a run", remedy=""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    with sole_run(folder, "a run", remedy="wait"):
        with (
            pytest.raises(OutputError, match=r"another a run is writing to .*\(wait\)"),
            sole_run(folder, "a run", remedy="wait"),
        ):
            pass
        with sole_run(folder, "other", remedy=""):
            pass
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with sole_run(folder, "a run", remedy=""):
        pass
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_shares_run_together_and_never_beside_the_whole(tmp_path: Path) -> None:
    with sole_run(tmp_path, "a run", remedy="", share="1/2"):
        with sole_run(tmp_path, "a run", remedy="", share="2/2"):
            pass
        for share in ("1/2", ""):
            with pytest.raises(OutputError, match="another a run"), sole_run(tmp_path, "a run", remedy="", share=share):
                pass
        # The share that has ended left the lock of the others.
        assert (tmp_path / ".ntt-lock.a-run").exists()
    with sole_run(tmp_path, "a run", remedy=""), pytest.raises(OutputError):
        with sole_run(tmp_path, "a run", remedy="", share="1/2"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), sole_run(tmp_path / "new", "a run", remedy=""):
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with sole_run(tmp_path / "old", "a run", remedy=""):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_signal_while_it_ends_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def interrupted(path: Path) -> None:
        monkeypatch.setattr(Path, "unlink", unlink)
        raise KeyboardInterrupt

    def run() -> None:
        with sole_run(tmp_path, "a run", remedy=""):
            monkeypatch.setattr(Path, "unlink", interrupted)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_keeps_nobody_out(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match="another"), sole_run(tmp_path, "a run", remedy=""):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / ".ntt-lock.a-run").exists()
    with sole_run(tmp_path, "a run", remedy=""):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_released_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, the file may be removed: its lock would be of a file that nobody else finds."""
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        (tmp_path / ".ntt-lock.a-run").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with sole_run(tmp_path, "a run", remedy=""), pytest.raises(OutputError, match="another"):
        with sole_run(tmp_path, "a run", remedy=""):
            pass


def test_where_there_are_no_locks_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with sole_run(tmp_path, "a run", remedy=""), sole_run(tmp_path, "a run", remedy=""):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write .*\.ntt-lock\.a-run"),
        sole_run(tmp_path / "file", "a run", remedy=""),
    ):
        pass
