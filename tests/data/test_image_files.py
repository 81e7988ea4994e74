"""The one rule for images in folders: links, loops, what cannot be read, and the endings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from no_time_to_train.batch.image_paths import find_images
from no_time_to_train.data.image_files import image_endings, list_images
from no_time_to_train.data.images import load_image
from no_time_to_train.errors import ImageReadError
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule
from no_time_to_train.training.distill.image_sources import images_in_folders
from tests.bad_inputs.table import permissions_bind


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (10, 200, 30)).save(path)
    return path


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder).values()]


def by_everyone(folder: Path) -> list[list[str]]:
    """Return what each of the three ways to read a folder finds in it."""
    data = ReferenceTargetDataModule(target_images=folder)
    training = images_in_folders([folder])
    return [
        [found.name for found in find_images([folder])],
        [record.file_name for record in data.target_dataset(()).images],
        [Path(training.name(index)).relative_to(folder).as_posix() for index in range(len(training))],
    ]


def test_links_are_followed_and_each_real_file_comes_once(tmp_path: Path) -> None:
    photos, store = tmp_path / "photos", tmp_path / "store"
    image(photos / "a.png")
    image(photos / "deeper" / "b.png")
    image(store / "c.png")
    image(store / "loose.png")
    (photos / "0 linked").symlink_to(store)
    (photos / "again").symlink_to(store)
    (photos / "0 a.png").symlink_to(photos / "a.png")
    (photos / "deeper" / "up").symlink_to(photos)
    (store / "round").symlink_to(store / "round again")
    (store / "round again").symlink_to(photos / "deeper")
    expected = ["0 linked/c.png", "0 linked/loose.png", "a.png", "deeper/b.png"]
    assert by_everyone(photos) == [expected] * 3
    # Folders that overlap, too.
    assert len(images_in_folders([photos, store, photos / "deeper"])) == 4
    both = find_images([photos / "deeper" / "b.png", photos])
    assert [found.name for found in both] == ["deeper/b.png", *expected[:3]]


def test_hidden_names_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.PNG", ".hidden.png", ".trash/b.png", "folder.jpg/c.png"):
        image(tmp_path / name).touch()
    for name in ("notes.txt", "paper.pdf", "features.h5", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / "phone.HEIC").touch()
    assert listed(tmp_path) == ["a.PNG", "folder.jpg/c.png", "phone.HEIC"]
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif", ".ppm", ".jp2"} <= image_endings()
    image(tmp_path / ".trash" / "b.png")
    assert listed(tmp_path / ".trash") == ["b.png"]


def test_broken_links_are_listed_where_they_may_matter(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    for name in ("gone.png", "2024 photos", "notes.txt", "2024.05"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    assert listed(tmp_path) == ["2024 photos", "2024.05", "a.png", "gone.png", "itself.jpg"]
    with pytest.raises(ImageReadError, match=r"gone\.png is a broken link: .* \(correct or remove the link\)"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageReadError, match=r"itself\.jpg cannot be read: Too many levels of symbolic links"):
        load_image(tmp_path / "itself.jpg")


def test_a_folder_that_may_not_be_opened_is_listed(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "private" / "b.png")
    (tmp_path / "private").chmod(0)
    try:
        with permissions_bind():
            assert listed(tmp_path) == ["a.png", "private"]
            message = r"the folder .*private cannot be opened, nor can the images in it: Permission denied \(check its"
            with pytest.raises(ImageReadError, match=message):
                load_image(tmp_path / "private")
            # The main job ends with it before anything is computed, as for an image that cannot be read.
            with pytest.raises(ImageReadError, match=message):
                ReferenceTargetDataModule(target_images=tmp_path).target_dataset(())
            training = images_in_folders([tmp_path])
            assert len(training) == 2
            with pytest.raises(ImageReadError, match=message):
                training.load(1)
            assert list(list_images(tmp_path / "private").values()) == [tmp_path / "private"]
    finally:
        (tmp_path / "private").chmod(0o755)


def test_a_link_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    """Some links in /proc may be followed by nobody but their process."""
    image(tmp_path / "a.png")
    secret = Path("/proc/1/cwd")
    (tmp_path / "theirs").symlink_to(secret)
    with permissions_bind():
        try:
            secret.readlink()
        except PermissionError:
            pass
        else:
            pytest.skip("this user may read all links of process 1")
        assert listed(tmp_path) == ["a.png", "theirs"]
        with pytest.raises(ImageReadError, match="Permission denied"):
            load_image(tmp_path / "theirs")
        assert [found.path for found in find_images([tmp_path, tmp_path / "a.png"])] == [
            tmp_path / "a.png",
            tmp_path / "theirs",
        ]


def test_a_folder_too_deep_to_be_opened_is_listed(tmp_path: Path) -> None:
    """Whatever the system's reason is."""
    image(tmp_path / "a.png")
    # Longer than PATH_MAX, 4096 bytes; made step by step, in another process.
    steps = f"import os\nos.chdir({str(tmp_path)!r})\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)"
    subprocess.run([sys.executable, "-c", steps], check=True)
    found = list(list_images(tmp_path).values())
    assert tmp_path / "a.png" in found
    (deep,) = (path for path in found if path != tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="File name too long"):
        load_image(deep)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_is_no_regular_file_is_listed_and_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            # A path of its own: those of sockets are at most 107 bytes long.
            here = os.open(tmp_path, os.O_RDONLY)
            server.bind(f"/proc/self/fd/{here}/a.png")
            os.close(here)
    else:
        path.symlink_to("/dev/zero")
    assert listed(tmp_path) == ["a.png"]
    with pytest.raises(ImageReadError, match=rf"a\.png cannot be read: it is a .*{kind}.*, expected a regular file"):
        load_image(path)
