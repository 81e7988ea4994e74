"""The folders of other programs' forms: images under their names, nothing half-written, nothing of others lost."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.results import found_dataset, outside_exports, write_results
from no_time_to_train.errors import DataNotFoundError, OutputError
from no_time_to_train.results.formats import ExportName, FormatName
from no_time_to_train.results.formats.folders import (
    EXPORTS,
    check_export,
    is_export,
    remove_exports,
    write_export,
)
from no_time_to_train.results.formats.table import FORMATS
from tests.results.found import entry, photographs, ring_mask, stamped


@pytest.fixture
def ring() -> np.ndarray:
    return ring_mask()


def test_the_folder_has_the_images_under_their_names(tmp_path: Path, ring: np.ndarray) -> None:
    """Annotation tools know images by their names without the ending."""
    names = ["a.jpg", "a.png", "a_png.png", "deep/er/a.png", "b.tar.png"]
    images = photographs(tmp_path / "in", *names)
    dataset = found_dataset([entry(name, ring) for name in names], ["ring"], tmp_path / "in")
    for _ in range(2):
        write_export(tmp_path / "coco", "coco", dataset, stamped(images))
    document = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    written = [image["file_name"] for image in document["images"]]
    assert written == ["a.jpg", "a_png_2.png", "a_png.png", "deep/er/a.png", "b.tar.png"]
    root = tmp_path / "coco" / "annotations" / document["info"]["image_root"]
    assert root.samefile(tmp_path / "coco" / "images" / "default")
    # Links: the same file, no room.
    assert all((root / name).samefile(path) for name, path in zip(written, images, strict=True))
    remove_exports(tmp_path)
    assert all(path.is_file() for path in images)


def test_names_in_the_folder_fit_and_are_no_folders(tmp_path: Path, ring: np.ndarray) -> None:
    long = "ü" * 125
    names = [f"{long}.jpg", f"{long}.png", "a.jpg", "a.png", "a_png.png/x.png", f"deep/{long}.jpg", f"deep/{long}.png"]
    images = photographs(tmp_path / "in", *names)
    dataset = found_dataset([entry(name, ring) for name in names], ["ring"], tmp_path / "in")
    write_export(tmp_path / "coco", "coco", dataset, stamped(images))
    document = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    written = [image["file_name"] for image in document["images"]]
    assert written[2:5] == ["a.jpg", "a_png_2.png", "a_png.png/x.png"]
    assert len({str(Path(name).with_suffix("")) for name in written}) == len(names)
    root = tmp_path / "coco" / "images" / "default"
    assert all((root / name).samefile(path) for name, path in zip(written, images, strict=True))


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_images_of_another_file_system_are_copied(
    tmp_path: Path, ring: np.ndarray, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    (path,) = photographs(tmp_path, "a.png")
    monkeypatch.setattr(os, "link", refused)
    write_export(tmp_path / "coco", "coco", found_dataset([entry("a.png", ring)], ["ring"], tmp_path), stamped([path]))
    copy = tmp_path / "coco" / "images" / "default" / "a.png"
    assert copy.read_bytes() == path.read_bytes()
    assert not copy.samefile(path)


def test_an_image_that_is_gone_leaves_the_earlier_folder(tmp_path: Path, ring: np.ndarray) -> None:
    dataset = found_dataset([entry(name, ring) for name in ("a.png", "b.png")], ["ring"], tmp_path)
    images = stamped(photographs(tmp_path, "a.png", "b.png"))
    write_export(tmp_path / "coco", "coco", dataset, images)
    images[1][0].unlink()
    with pytest.raises(DataNotFoundError, match=r"b\.png was removed .*run the same command again"):
        write_export(tmp_path / "coco", "coco", dataset, images)
    assert len(list((tmp_path / "coco" / "images" / "default").iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "coco"]


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("how", ["in place", "renamed"])
@pytest.mark.parametrize("copies", [False, True])
def test_an_image_that_is_another_one_by_now_is_refused(
    tmp_path: Path, ring: np.ndarray, settled: bool, how: str, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be shown with the masks of the one that was looked at."""
    (path,) = photographs(tmp_path, "a.png")
    ((_, stamp),) = stamped([path])
    before = path.stat()
    other = path.read_bytes().replace(b"IEND", b"IENE")
    written = path if how == "in place" else tmp_path / "new"
    written.write_bytes(other)
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    written.replace(path)
    if copies:
        monkeypatch.setattr(os, "link", refuse)
    dataset = found_dataset([entry("a.png", ring)], ["ring"], tmp_path)
    with pytest.raises(DataNotFoundError, match=r"a\.png was written to .*run the same command again"):
        write_export(tmp_path / "coco", "coco", dataset, [(path, replace(stamp, settled=settled))])
    assert not (tmp_path / "coco").exists()


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("content", ["train.json", "annotations/instances_default.json", "annotations/mine.json"])
def test_a_folder_of_somebody_else_stays(tmp_path: Path, ring: np.ndarray, content: str) -> None:
    file = tmp_path / "coco" / content
    (tmp_path / "coco" / "images").mkdir(parents=True)
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"info": {"description": "COCO 2017"}}')
    with pytest.raises(OutputError, match="holds something else than what --format coco writes"):
        check_export(tmp_path / "coco", "coco")
    write_results(tmp_path, found_dataset([entry("a.png", ring)], ["ring"], tmp_path), polygons=False, stale=())
    assert file.is_file()
    # Nor are photographs in it left out.
    images = [InputImage(path, path.name) for path in photographs(tmp_path / "coco", "images/x.png")]
    assert outside_exports(images, tmp_path) == images


def test_the_table_has_each_name() -> None:
    assert tuple(FORMATS) == get_args(FormatName)


WITH_LIST = [name for name in EXPORTS if not name.startswith("coco")]


def write(output: Path, name: ExportName, mask: np.ndarray, source: Path) -> None:
    dataset = found_dataset([entry("a.png", mask)], ["ring"], source)
    files = stamped([source / "a.png"])
    write_export(output / name, name, dataset, files)


@pytest.mark.parametrize("name", WITH_LIST)
def test_what_was_written_is_replaced_and_removed(tmp_path: Path, ring: np.ndarray, name: ExportName) -> None:
    (path,) = photographs(tmp_path / "in", "a.png")
    for _ in range(2):
        write(tmp_path, name, ring, tmp_path / "in")
        # Left by programs themselves.
        (tmp_path / name / "labels.cache").touch()
        (tmp_path / name / ".DS_Store").touch()
    remove_exports(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert path.is_file()


@pytest.mark.parametrize("how", ["changed", "added"])
@pytest.mark.parametrize("name", WITH_LIST)
def test_what_others_changed_stays(tmp_path: Path, ring: np.ndarray, name: ExportName, how: str) -> None:
    """Programs save corrections where they found the annotations."""
    photographs(tmp_path / "in", "a.png")
    write(tmp_path, name, ring, tmp_path / "in")
    inside = (path for path in sorted((tmp_path / name).rglob("*")) if path.is_file() and not path.name.startswith("."))
    file = next(path for path in inside if path.name != "a.png" or name in ("masks", "crops"))
    if how == "changed":
        file.write_bytes(file.read_bytes() + b" ")
    else:
        file = tmp_path / name / "new.txt"
        file.touch()
    remove_exports(tmp_path)
    assert file.is_file()
    with pytest.raises(OutputError, match=f"and {file.name if how == 'added' else '.*'} in it was added or changed"):
        write(tmp_path, name, ring, tmp_path / "in")
    # Its images are still no photographs.
    assert is_export(tmp_path / name, name)
    others = [InputImage(tmp_path / name / "x.png", "x.png"), InputImage(tmp_path / "in" / "a.png", "a.png")]
    assert outside_exports(others, tmp_path) == others[1:]


@pytest.mark.parametrize("name", WITH_LIST)
@pytest.mark.parametrize("content", ["[]", "{", '{"format": "coco", "files": {}}', '{"format": "NAME", "files": []}'])
def test_another_folder_stays(tmp_path: Path, ring: np.ndarray, name: ExportName, content: str) -> None:
    photographs(tmp_path / "in", "a.png")
    file = tmp_path / name / ".ntt-export"
    file.parent.mkdir()
    file.write_text(content.replace("NAME", name))
    option = "--crops" if name == "crops" else f"--format {name}"
    with pytest.raises(OutputError, match=f"holds something else than what {option} writes"):
        write(tmp_path, name, ring, tmp_path / "in")
    remove_exports(tmp_path)
    assert file.is_file()


@pytest.mark.parametrize("name", ["yolo-seg", "labelme", "voc", "labelstudio", "crops"])
def test_an_image_that_was_replaced_gets_no_masks(tmp_path: Path, ring: np.ndarray, name: ExportName) -> None:
    (path,) = photographs(tmp_path / "in", "a.png")
    dataset, files = found_dataset([entry("a.png", ring)], ["ring"], tmp_path / "in"), stamped([path])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataNotFoundError, match=f"not put into {name}/"):
        write_export(tmp_path / name, name, dataset, files)
    assert not (tmp_path / name).exists()
