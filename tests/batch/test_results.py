"""The COCO dataset of all images: what is in it, its polygons, its folder for annotation tools."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.results import (
    check_coco_folder,
    found_dataset,
    outside_coco_folder,
    remove_coco_folder,
    write_coco_folder,
    write_results,
)
from no_time_to_train.cli import main
from no_time_to_train.data.coco import decode_mask, encode_mask, load_coco
from no_time_to_train.data.images import load_stamped_image
from no_time_to_train.errors import DataNotFoundError, OutputError
from no_time_to_train.io.file_stamps import FileStamp
from tests.tiny import TinyData

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


def entry(name: str, mask: np.ndarray) -> dict[str, Any]:
    found = {"category": "ring", "category_id": 1, "bbox": [1.0, 1.0, 7.0, 7.0], "score": 0.5, "area": int(mask.sum())}
    height, width = mask.shape
    return {
        "file_name": name,
        "height": height,
        "width": width,
        "instances": [found | {"segmentation": encode_mask(mask)}],
    }


@pytest.fixture
def ring() -> np.ndarray:
    mask = np.zeros((12, 10), dtype=bool)
    mask[1:8, 1:8] = True
    mask[3:5, 3:6] = False
    return mask


def stamped(images: list[Path]) -> list[tuple[Path, FileStamp]]:
    return [(path, load_stamped_image(path)[1]) for path in images]


def photographs(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (9, 8, 7)).save(folder / name)
    return [folder / name for name in names]


def test_pycocotools_reads_it_all(tmp_path: Path, ring: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(
        tmp_path / "out", found_dataset([entry("a.png", ring)], ["ring"], tmp_path / "in"), polygons=False, stale=()
    )
    dataset = COCO(str(tmp_path / "out" / "predictions.json"))
    dataset.info()
    assert "image_root: ../in" in capsys.readouterr().out
    assert dataset.dataset["licenses"] == []
    assert dataset.loadCats(1)[0]["name"] == "ring"
    assert dataset.loadAnns(1)[0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1.0, 1.0, 7.0, 7.0],
        "score": 0.5,
        "area": 43,
        "segmentation": encode_mask(ring),
        "iscrowd": 0,
    }


def test_polygons_are_the_same_masks(tmp_path: Path, ring: np.ndarray) -> None:
    write_results(tmp_path, found_dataset([entry("a.png", ring)], ["ring"], tmp_path), polygons=True, stale=())
    (annotation,) = load_coco(tmp_path / "predictions.json").annotations
    assert isinstance(annotation.segmentation, list)
    np.testing.assert_array_equal(decode_mask(annotation, *ring.shape), ring)


def test_what_belonged_to_other_results_goes(tmp_path: Path, ring: np.ndarray) -> None:
    one, other = (found_dataset([entry(name, ring)], ["ring"], tmp_path) for name in ("a.png", "b.png"))
    images = stamped(photographs(tmp_path, "a.png"))
    for dataset, stays in ((one, False), (one, True), (other, False)):
        (tmp_path / "report.html").touch()
        write_coco_folder(tmp_path / "coco", one, images, polygons=False)
        write_results(tmp_path, dataset, polygons=False, stale=("report.html",))
        assert (tmp_path / "report.html").exists() == (tmp_path / "coco").exists() == stays


def test_the_folder_has_the_images_under_their_names(tmp_path: Path, ring: np.ndarray) -> None:
    """Annotation tools know images by their names without the ending."""
    names = ["a.jpg", "a.png", "a_png.png", "deep/er/a.png", "b.tar.png"]
    images = photographs(tmp_path / "in", *names)
    dataset = found_dataset([entry(name, ring) for name in names], ["ring"], tmp_path / "in")
    for _ in range(2):
        write_coco_folder(tmp_path / "coco", dataset, stamped(images), polygons=False)
    document = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    written = [image["file_name"] for image in document["images"]]
    assert written == ["a.jpg", "a_png_2.png", "a_png.png", "deep/er/a.png", "b.tar.png"]
    root = tmp_path / "coco" / "annotations" / document["info"]["image_root"]
    assert root.samefile(tmp_path / "coco" / "images" / "default")
    # Links: the same file, no room.
    assert all((root / name).samefile(path) for name, path in zip(written, images, strict=True))
    remove_coco_folder(tmp_path / "coco")
    assert all(path.is_file() for path in images)


def test_names_in_the_folder_fit_and_are_no_folders(tmp_path: Path, ring: np.ndarray) -> None:
    long = "ü" * 125
    names = [f"{long}.jpg", f"{long}.png", "a.jpg", "a.png", "a_png.png/x.png", f"deep/{long}.jpg", f"deep/{long}.png"]
    images = photographs(tmp_path / "in", *names)
    dataset = found_dataset([entry(name, ring) for name in names], ["ring"], tmp_path / "in")
    write_coco_folder(tmp_path / "coco", dataset, stamped(images), polygons=False)
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
    write_coco_folder(
        tmp_path / "coco", found_dataset([entry("a.png", ring)], ["ring"], tmp_path), stamped([path]), polygons=False
    )
    copy = tmp_path / "coco" / "images" / "default" / "a.png"
    assert copy.read_bytes() == path.read_bytes()
    assert not copy.samefile(path)


def test_an_image_that_is_gone_leaves_the_earlier_folder(tmp_path: Path, ring: np.ndarray) -> None:
    dataset = found_dataset([entry(name, ring) for name in ("a.png", "b.png")], ["ring"], tmp_path)
    images = stamped(photographs(tmp_path, "a.png", "b.png"))
    write_coco_folder(tmp_path / "coco", dataset, images, polygons=False)
    images[1][0].unlink()
    with pytest.raises(DataNotFoundError, match=r"b\.png was removed .*run the same command again"):
        write_coco_folder(tmp_path / "coco", dataset, images, polygons=False)
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
        write_coco_folder(tmp_path / "coco", dataset, [(path, replace(stamp, settled=settled))], polygons=False)
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
        check_coco_folder(tmp_path / "coco")
    write_results(tmp_path, found_dataset([entry("a.png", ring)], ["ring"], tmp_path), polygons=False, stale=())
    assert file.is_file()
    # Nor are photographs in it left out.
    images = [InputImage(path, path.name) for path in photographs(tmp_path / "coco", "images/x.png")]
    assert outside_coco_folder(images, tmp_path / "coco") == images


def test_from_the_command_line(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs of two folders, into one of them; a second run takes its own folder for no input."""
    for name in ("left", "right"):
        photographs(tmp_path, f"{name}/x.png")
    arguments = ["predict", "--images", str(tmp_path / "left"), str(tmp_path / "right"), "--config", str(settings)]
    arguments += ["--references", str(data.references), "--reference-images", str(data.images), "--min-score", "0"]
    arguments += ["--output", str(tmp_path / "left"), "--no-overlays"]
    for more in ([], ["--polygons"]):
        assert main([*arguments, "--format", "coco", *more]) == 0
        assert f"for annotation tools: {tmp_path / 'left' / 'coco'}" in capsys.readouterr().out
        document = json.loads((tmp_path / "left" / "predictions.json").read_text())
        assert [image["file_name"] for image in document["images"]] == ["left/x.png", "right/x.png"]
        root = tmp_path / "left" / document["info"]["image_root"]
        assert (root / "right/x.png").samefile(tmp_path / "right/x.png")
        inside = load_coco(tmp_path / "left" / "coco" / "annotations" / "instances_default.json")
        assert inside.annotations == load_coco(tmp_path / "left" / "predictions.json").annotations
        assert {type(annotation.segmentation) for annotation in inside.annotations} == {list if more else dict}
    (tmp_path / "left" / "coco" / "mine.txt").touch()
    assert main([*arguments, "--format", "coco"]) == 2
    assert "coco holds something else" in capsys.readouterr().err
    assert main([*arguments, "--format", "voc"]) == 2
    assert "coco" in capsys.readouterr().err
