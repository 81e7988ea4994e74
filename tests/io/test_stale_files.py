"""What killed processes leave: told by its name, removed once nobody writes there, never while somebody does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from no_time_to_train.io import atomic as files
from no_time_to_train.io import stale_files as leftovers
from no_time_to_train.io.atomic import atomic_files, atomic_path, put_in_place, remove_folder, write_text_atomic
from no_time_to_train.io.stale_files import folder_lock, is_unfinished, remove_left_over, replaced_name, unfinished_name


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looked into no folder yet, as a process that has just begun."""
    monkeypatch.setattr(leftovers, "_seen", set())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["a.safetensors", "model.onnx", "folder", "v1.5-onnx", ".hidden", "ü" * 120 + ".json"])
def test_names_tell(name: str, tmp_path: Path) -> None:
    for made in (unfinished_name(Path(name)), replaced_name(Path(name[:40]))):
        assert made.startswith(".")
        assert is_unfinished(made)
        (tmp_path / made).touch()  # a file system takes it
    assert unfinished_name(Path(name)).endswith(Path(name).suffix)
    assert not is_unfinished(name)


KILLED = """
import os, signal, sys
from pathlib import Path
from no_time_to_train.io.atomic import atomic_files, atomic_folder, atomic_path
folder = Path(sys.argv[1])
with atomic_path(folder / "a.json") as file, atomic_folder(folder / "b") as beside, atomic_files(folder, "c") as within:
    file.write_text("{")
    (beside / "half").write_text("1")
    (within / "half").write_text("2")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
"""


def process(folder: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(folder), what]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path: Path) -> None:
    killed = process(tmp_path, "kill")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 3
    assert all(map(is_unfinished, names(tmp_path)))
    write_text_atomic(tmp_path / "other.json", "{}")
    assert names(tmp_path) == ["other.json"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    other = process(tmp_path, "write")
    assert other.stdout is not None
    assert other.stdout.readline() == "writing\n"
    write_text_atomic(tmp_path / "mine.json", "{}")
    assert not remove_left_over(tmp_path)
    assert len(names(tmp_path)) == 4
    other.communicate()
    assert other.returncode == 0
    assert names(tmp_path) == ["a.json", "b", "half", "mine.json"]


def test_what_this_process_is_writing_stays(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.json") as first:
        first.write_text("first")
        with atomic_path(tmp_path / "a.json") as second:
            second.write_text("second")
        assert (tmp_path / "a.json").read_text() == "second"
    assert (tmp_path / "a.json").read_text() == "first"
    assert names(tmp_path) == ["a.json"]


def test_only_what_has_such_a_name_goes(tmp_path: Path) -> None:
    kept = [".a.0123456789ab.json", ".tmpabc", "a.0123456789ab.ntt-unfinished", ".a.xyz.ntt-unfinished.json"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / unfinished_name(Path("a.json"))).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (tmp_path / unfinished_name(Path("link"))).symlink_to(tmp_path / "elsewhere")
    assert remove_left_over(tmp_path)
    assert names(tmp_path) == sorted([*kept, "elsewhere"])
    assert names(tmp_path / "elsewhere") == ["precious"]
    assert not remove_left_over(tmp_path / "nowhere")


def test_a_process_looks_once(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        pass
    left = tmp_path / unfinished_name(Path("a.json"))
    left.touch()
    with folder_lock(tmp_path):
        assert left.exists()
    assert remove_left_over(tmp_path)
    assert not left.exists()


def test_killed_between_the_two_steps_of_a_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that cannot let two paths change names: the old folder comes back, or goes if there is a new."""
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    root, new = tmp_path / "root", tmp_path / "new"
    for folder in (root, new):
        folder.mkdir()
        (folder / folder.name).touch()
    rename = Path.rename

    class Killed(BaseException):
        pass

    def dying(self: Path, target: Path) -> Path:
        if self == new:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            put_in_place(new, root)
    assert not root.exists()
    monkeypatch.setattr(leftovers, "_seen", set())
    write_text_atomic(tmp_path / "a.json", "{}")
    assert names(root) == ["root"]
    # Where another one has come since, the old one goes.
    (tmp_path / replaced_name(root)).mkdir()
    assert remove_left_over(tmp_path)
    assert names(tmp_path) == ["a.json", "new", "root"]
    put_in_place(new, root)
    assert names(root) == ["new"]
    assert names(tmp_path) == ["a.json", "root"]


def test_a_folder_goes_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").touch()

    class Killed(BaseException):
        pass

    def dying(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", dying)
        with pytest.raises(Killed):
            remove_folder(tmp_path / "export")
    assert all(map(is_unfinished, names(tmp_path)))
    assert remove_left_over(tmp_path)
    assert names(tmp_path) == []
    remove_folder(tmp_path / "nowhere")


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refused)
    left = tmp_path / unfinished_name(Path("a.json"))
    left.touch()
    write_text_atomic(tmp_path / "b.json", "{}")
    assert names(tmp_path) == sorted([left.name, "b.json"])


def test_files_that_belong_together(tmp_path: Path) -> None:
    for name, text in (("weights", "old"), ("settings", "old"), ("README", "mine")):
        (tmp_path / name).write_text(text)
    with atomic_files(tmp_path, last="weights") as beside:
        (beside / "weights").write_text("new")
        (beside / "settings").write_text("new")
        assert (tmp_path / "weights").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "weights": "new",
        "settings": "new",
        "README": "mine",
    }
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "README").stat().st_mode

    def fail() -> None:
        with atomic_files(tmp_path, last="weights") as beside:
            (beside / "settings").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == ["README", "settings", "weights"]
    assert (tmp_path / "settings").read_text() == "new"


def test_the_last_file_is_missing_while_the_others_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("weights", "settings"):
        (tmp_path / name).write_text("old")
    seen: list[list[str]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append([path.name for path in tmp_path.iterdir() if not is_unfinished(path.name)])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with atomic_files(tmp_path, last="weights") as beside:
        for name in ("weights", "settings"):
            (beside / name).write_text("new")
    assert seen == [["settings"], ["settings"]]
    assert (tmp_path / "weights").read_text() == "new"
