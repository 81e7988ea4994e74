import errno
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from no_time_to_train import files
from no_time_to_train.errors import OutputError
from no_time_to_train.files import atomic_files, atomic_folder, atomic_path, put_in_place, write_text_atomic
from no_time_to_train.paths import open_regular, read_regular, without_home


def test_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "down" / "a.json"
    write_text_atomic(target, "old")
    write_text_atomic(target, "new ü\n")
    assert target.read_bytes() == "new ü\n".encode()
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]


def test_the_temporary_file_is_a_sibling_of_the_same_kind(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.safetensors") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".safetensors"
        assert not (tmp_path / "a.safetensors").exists()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("ha")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def _whole_file(folder: Path) -> Path:
    write_text_atomic(folder / "a.txt", "new")
    return folder / "a.txt"


def _whole_folder(folder: Path) -> Path:
    with atomic_folder(folder / "new") as beside:
        (beside / "a.txt").write_text("new")
    return folder / "new" / "a.txt"


def _files_of_one_run(folder: Path) -> Path:
    with atomic_files(folder, "z.txt") as beside:
        (beside / "a.txt").write_text("new")
        (beside / "z.txt").write_text("new")
    return folder / "z.txt"


@pytest.mark.parametrize("write", [_whole_file, _whole_folder, _files_of_one_run])
def test_what_takes_its_place_is_on_the_disk(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut loses what was not synced. No kill shows that: the system keeps what a killed process wrote."""
    done: list[tuple[str, int]] = []

    def seen(word: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            done.append((word, os.stat(arguments[0]).st_ino))  # noqa: PTH116 # of an open file too
            return original(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", seen("sync", os.fsync))
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, seen("move", getattr(Path, name)))
    written = write(tmp_path)
    moved = written if written.parent == tmp_path else written.parent
    place = done.index(("move", moved.stat().st_ino))
    assert ("sync", written.stat().st_ino) in done[:place]
    assert ("sync", tmp_path.stat().st_ino) in done[place:]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "a.txt"
    real.write_text("old")
    link = tmp_path / "a.txt"
    link.symlink_to(real)
    write_text_atomic(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    write_text_atomic(tmp_path / "atomic.txt", "")
    assert (tmp_path / "atomic.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_a_folder_or_a_file_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path, tmp_path / "file" / "a.txt"):
        with pytest.raises(OutputError, match="name a file in a folder"):
            write_text_atomic(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_can_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "a.safetensors") as temporary:
        save_file({"a": torch.zeros(1)}, temporary)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    root = tmp_path / "parent" / "root"
    with atomic_folder(root) as beside:
        (beside / "one").write_text("1")
        assert not root.exists()

    def fail() -> None:
        with atomic_folder(root) as beside:
            (beside / "two").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in root.iterdir()] == ["one"]
    with atomic_folder(root) as beside:
        (beside / "three").write_text("3")
    assert [path.name for path in root.iterdir()] == ["three"]
    assert [path.name for path in root.parent.iterdir()] == ["root"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write beside"), atomic_folder(tmp_path / "file" / "root"):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_of_several_that_make_a_new_file_the_first_wins(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new.txt"

    def write_while_another_does() -> None:
        with atomic_path(path, replace=False) as late:
            with atomic_path(path, replace=False) as early:
                early.write_text("early")
            late.write_text("late")

    with pytest.raises(OutputError, match=r"new\.txt is there already \(name a new one"):
        write_while_another_does()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("new.txt", "early")]


def test_of_several_that_make_a_new_folder_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.mkdir()

    def write_while_another_does() -> None:
        with atomic_folder(path, replace=False) as late:
            with atomic_folder(path, replace=False) as early:
                (early / "early").touch()
            (late / "late").touch()

    with pytest.raises(OutputError, match="new is there already"):
        write_while_another_does()
    assert [one.name for one in path.iterdir()] == ["early"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_folders_and_files_are_as_open_as_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "root") as beside:
            write_text_atomic(beside / "one", "1")
        _files_of_one_run(tmp_path / "files")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        full = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == full & ~mask, path


def test_without_an_exchange_the_old_folder_stays_until_the_new_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems that cannot let two paths change names."""
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    root, new = tmp_path / "root", tmp_path / "new"
    for folder in (root, new):
        folder.mkdir()
        (folder / folder.name).touch()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OutputError, match="not a mount point"):
            put_in_place(new, root)
    assert [path.name for path in root.iterdir()] == ["root"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "root"]
    put_in_place(new, root)
    assert [path.name for path in root.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no /home/me/a.jpg", "there is no ~/a.jpg"),
        ("--data.root=/home/me/data, onnx:/home/me/x", "--data.root=~/data, onnx:~/x"),
        ("file:///home/me/x", "file://~/x"),
        ("/mnt/home/me/x and /home/melanie/x", "/mnt/home/me/x and /home/melanie/x"),
    ],
)
def test_the_home_folder_is_not_told(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert without_home(text) == shown


@pytest.mark.parametrize("writer", ["write_text_atomic(path, '0' * 100_000)", "save_file({'a': zeros(100_000)}, path)"])
def test_a_limit_on_file_sizes_names_the_file_and_the_limit(writer: str, tmp_path: Path) -> None:
    """As `ulimit -f` sets it; libraries report it with a message of their own and without the file's name."""
    if writer.startswith("save"):
        writer = f"with atomic_path(path) as temporary: {writer.replace(', path', ', temporary')}"
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom numpy import zeros\n"
        "from safetensors.numpy import save_file\nfrom no_time_to_train.errors import OutputError\n"
        "from no_time_to_train.files import atomic_path, write_text_atomic\n"
        "path = Path(sys.argv[1])\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_480, 20_480))\n"
        f"try:\n    {writer}\nexcept OutputError as error:\n    print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "large")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert f"cannot write {tmp_path / 'large'}: File too large (raise the limit that ulimit -f shows" in done.stdout
    assert not list(tmp_path.iterdir())


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the others is waited for: without its check, opening the FIFO would hang."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"content")
    Path("link").symlink_to("file")
    assert read_regular(Path("link")) == b"content"
    os.mkfifo("fifo")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for name, kind in {
        "fifo": "a FIFO (named pipe)",
        "folder": "a folder",
        "socket": "a socket",
        "/dev/zero": "a device",
        "/proc/self/fd": "a folder",
    }.items():
        with pytest.raises(OSError, match=re.escape(f"it is {kind}, expected a regular file: '{name}'")):
            open_regular(Path(name))
    with pytest.raises(FileNotFoundError):
        open_regular(Path("missing"))


@pytest.mark.parametrize("address", ["s3://bucket/key", "memory://", "file:///tmp/key"])
def test_an_address_is_not_made_a_folder(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def written(writer: Callable[..., Any], *more: Any) -> None:
        with writer(Path(address), *more):
            pass

    attempts: tuple[Callable[[], None], ...] = (
        lambda: files.check_writable(Path(address)),
        lambda: written(files.atomic_path),
        lambda: written(files.atomic_folder),
        lambda: written(files.atomic_files, "last.json"),
    )
    for write in attempts:
        with pytest.raises(OutputError, match="it is not a path on this machine"):
            write()
    assert not list(tmp_path.iterdir())


def test_names_with_colons_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:b", "10:30/log.txt", "sub/s3:/key"):
        files.write_text_atomic(tmp_path / name, "")
        files.write_text_atomic(Path(name), "")
