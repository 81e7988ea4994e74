"""Images that change, go away, or have awkward names; and what earlier runs left."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.run import INSTANCES, overlay_of
from no_time_to_train.cli import main
from no_time_to_train.segmenter import Segmenter
from tests.bad_inputs.table import permissions_bind
from tests.batch.test_predict import one_error, predict, read
from tests.tiny import TinyData

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


@pytest.fixture(scope="module")
def settings(settings: Path) -> Path:
    """The smallest encoder: many of these tests run the command several times."""
    path = settings.with_name("smallest.yaml")
    path.write_text(settings.read_text().replace("dinov3_small", "dinov3_quickstart_tiny"))
    return path


@pytest.fixture
def photos(data: TinyData, tmp_path: Path) -> Path:
    """Two images with discs and squares."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, target in (("a.jpg", "005.jpg"), ("b.jpg", "006.jpg")):
        (folder / name).write_bytes((data.images / target).read_bytes())
    return folder


def while_looking(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, at: int = 1) -> None:
    """Do something once, while the first image is looked at, or a later one."""
    count = 0

    class HookPoint(Segmenter):
        def predict(self, images: Any, **settings: Any) -> Any:
            nonlocal count
            count += not isinstance(images, list)  # It calls itself with a list of one.
            if count == at and not isinstance(images, list):
                act()
            return super().predict(images, **settings)

    monkeypatch.setattr("no_time_to_train.cli.predictor.Segmenter", HookPoint)


def other_image(path: Path) -> None:
    """Put another image in the place of one, with its size in bytes and its time."""
    times, length = path.stat(), path.stat().st_size
    Image.new("RGB", (32, 24), (200, 10, 10)).save(path)
    path.write_bytes(path.read_bytes().ljust(length, b"\0"))
    assert path.stat().st_size == length
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_image_that_is_replaced_while_it_is_looked_at_is_looked_at_again(
    settings: Path,
    data: TinyData,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        while_looking(patch, lambda: other_image(photos / "a.jpg"))
        assert predict(settings, data, out, "--report", images=[str(photos)]) == 0
    shown = capsys.readouterr()
    assert re.search(
        r"changed: .*a\.jpg was written to or removed after it was read; .*run the same command", shown.err
    )
    assert [image["width"] for image in read(out / "predictions.json")["images"]] == [64, 64]
    # The page does not show outlines over another image.
    assert (out / "report.html").read_text().count("data:image/jpeg") == 4 + 1
    assert predict(settings, data, out, "--report", images=[str(photos)]) == 0
    shown = capsys.readouterr()
    assert "1 of them from an earlier run" in shown.out
    assert "changed:" not in shown.err
    assert [image["width"] for image in read(out / "predictions.json")["images"]] == [32, 64]
    assert (out / "report.html").read_text().count("data:image/jpeg") == 4 + 2


def test_an_image_that_is_replaced_before_the_run_ends_is_named_and_not_shown_with_other_masks(
    settings: Path,
    data: TinyData,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = ("--report", "--format", "coco")
    with monkeypatch.context() as patch:
        while_looking(patch, lambda: other_image(photos / "a.jpg"), at=2)
        assert predict(settings, data, out, images=[str(photos)]) == 0
    assert re.search(r"changed: .*a\.jpg was written to or removed .*run the same command", capsys.readouterr().err)
    (out / "instances" / "a.jpg.json").unlink()
    (out / "instances" / "b.jpg.json").unlink()
    with monkeypatch.context() as patch:
        while_looking(patch, lambda: (photos / "a.jpg").write_bytes((photos / "b.jpg").read_bytes()), at=2)
        assert predict(settings, data, out, *arguments, images=[str(photos)]) == 2
    assert re.search(r"error: .*a\.jpg was written to .*not put into coco/.*run the same", capsys.readouterr().err)
    assert not (out / "coco").exists()
    assert predict(settings, data, out, *arguments, images=[str(photos)]) == 0
    assert (out / "coco/images/default/a.jpg").read_bytes() == (photos / "b.jpg").read_bytes()


def test_a_run_that_ends_early_leaves_no_folder_of_other_results(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    assert predict(settings, data, out, "--format", "coco", images=[str(photos)]) == 0
    other_image(photos / "a.jpg")
    other_image(photos / "b.jpg")
    while_looking(monkeypatch, interrupt, at=2)
    assert predict(settings, data, out, "--format", "coco", images=[str(photos)]) == 130
    assert not (out / "predictions.json").exists()
    assert not (out / "coco").exists()


def test_two_runs_at_once_into_one_folder_are_refused(
    settings: Path,
    data: TinyData,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, statuses = tmp_path / "out", list[int]()
    # The lock belongs to an open file, so that the same process shows it.
    while_looking(monkeypatch, lambda: statuses.append(predict(settings, data, out, images=[str(photos)])))
    assert predict(settings, data, out, images=[str(photos)]) == 0
    assert statuses == [2]
    assert re.search(r"error: another ntt predict is writing to .*name another --output", capsys.readouterr().err)
    assert not list(out.glob(".*"))
    assert predict(settings, data, out, images=[str(photos)]) == 0


def test_results_of_an_image_that_cannot_be_read_any_more_are_named_and_removed_if_asked(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(settings, data, out, images=[str(photos)]) == 0
    (photos / "b.jpg").write_bytes(b"no image")
    capsys.readouterr()
    assert predict(settings, data, out, images=[str(photos)]) == 0
    assert re.search(r"left out: .*b\.jpg is not an image", (shown := capsys.readouterr().err))
    assert re.search(r"left over: .*does not have: b\.jpg", shown)
    assert predict(settings, data, out, "--clean", images=[str(photos)]) == 0
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {"predictions.json", "instances/a.jpg.json", "overlays/a.jpg.png"}


def test_an_image_that_is_removed_while_it_is_looked_at_does_not_stop_the_rest(
    settings: Path,
    data: TinyData,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def remove_both() -> None:
        (photos / "a.jpg").unlink()
        (photos / "b.jpg").unlink()

    (photos / "c.jpg").write_bytes((photos / "a.jpg").read_bytes())
    while_looking(monkeypatch, remove_both)
    assert predict(settings, data, tmp_path / "out", "--report", images=[str(photos)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("changed: ") and "a.jpg" in line]
    assert [line for line in lines if line.startswith("left out: no image at") and "b.jpg" in line]
    names = [image["file_name"] for image in read(tmp_path / "out" / "predictions.json")["images"]]
    assert names == ["a.jpg", "c.jpg"]


def test_awkward_names(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, out = (photos / "a.jpg").read_bytes(), tmp_path / "out"
    (photos / "b.jpg").unlink()
    names = ["a.jpg", "a.jpg.json/a.jpg", "a.jpg.png/a.jpg"]
    names += [f"{'x' * (length - 4)}.jpg" for length in range(249, 256)] + ["ü" * 125 + "y.jpg"]
    for name in names:
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(content)
    for _ in range(2):
        assert predict(settings, data, out, images=[str(photos)]) == 0
    shown = capsys.readouterr()
    assert f"{len(names)} images, {len(names)} of them from an earlier run" in shown.out
    assert "left over" not in shown.err
    assert {image["file_name"] for image in read(out / "predictions.json")["images"]} == set(names)
    assert all(overlay_of(InputImage(photos / name, name), out).is_file() for name in names)


def test_entries_that_others_changed_never_come_through(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(settings, data, out, "--report", images=[str(photos)]) == 0
    results, page = (out / "predictions.json").read_text(), (out / "report.html").read_text()
    entries = [out / INSTANCES / f"{name}.jpg.json" for name in "ab"]
    # A settled entry, whose image is not read again.
    entry = read(entries[0])
    entry["stamp"]["settled"] = True
    for change in ({"category": "ring"}, {"score": 77.0}, {"bbox": None}):
        entries[0].write_text(json.dumps(entry | {"instances": [entry["instances"][0] | change]}))
        entries[1].unlink()
        os.mkfifo(entries[1])
        capsys.readouterr()
        assert predict(settings, data, out, "--report", images=[str(photos)]) == 0
        assert "earlier run" not in capsys.readouterr().out
        assert (out / "predictions.json").read_text() == results
        assert (out / "report.html").read_text() == page


def test_nothing_found_says_the_best_score_and_what_to_lower(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings, data, tmp_path / "all", images=[str(photos)]) == 0
    none = "nothing found at any score of disc: each mask resembles another class more (give more references"
    assert none in capsys.readouterr().out
    found = read(tmp_path / "all" / "predictions.json")["annotations"]
    # The random encoder takes everything for squares.
    assert {annotation["category_id"] for annotation in found} == {2}
    best = max(annotation["score"] for annotation in found)
    for _ in range(2):
        # What an earlier run found of it is said too.
        assert predict(settings, data, tmp_path / "none", "--min-score", "1", images=[str(photos)]) == 0
        shown = capsys.readouterr().out
        assert f"nothing found of square (best score {best:.3g}): lower --min-score, now 1\n" in shown
        assert none in shown
    only = ("--class-names", "square")
    assert predict(settings, data, tmp_path / "only", *only, images=[str(photos)]) == 0
    assert "nothing found" not in capsys.readouterr().out
    strict = settings.with_name("strict.yaml")
    strict.write_text(settings.read_text().replace("iou_thr: 0.0", "iou_thr: 1.0"))
    assert predict(strict, data, tmp_path / "no masks", images=[str(photos)]) == 0
    told = "nothing found at any score: lower sam2_infer_cfgs.iou_thr, or raise sam2_infer_cfgs.points_per_side"
    assert told in capsys.readouterr().out


def test_what_earlier_runs_left_is_named_and_removed_if_asked(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (photos / "deeper").mkdir()
    (photos / "b.jpg").rename(photos / "deeper" / "b.jpg")
    assert predict(settings, data, out, "--report", images=[str(photos)]) == 0
    capsys.readouterr()
    (photos / "deeper" / "b.jpg").unlink()
    # Files that no run wrote: of somebody else, an entry that was moved, and an overlay without an entry.
    for name in ("instances/mine.json", "instances/deeper/mine.txt", "overlays/mine.png"):
        (out / name).write_text("mine")
    (out / "instances/moved.jpg.json").write_bytes((out / "instances/deeper/b.jpg.json").read_bytes())
    assert predict(settings, data, out, images=[str(photos)]) == 0
    line = "have 1 image of earlier runs that predictions.json does not have: deeper/b.jpg (--clean removes them)"
    assert line in capsys.readouterr().err
    assert len(read(out / "predictions.json")["images"]) == 1
    # A page with both images is not of this run.
    assert not (out / "report.html").exists()
    assert predict(settings, data, out, "--clean", images=[str(photos)]) == 0
    assert "removed: what earlier runs wrote of 1 image" in capsys.readouterr().err
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    mine = {"instances/mine.json", "instances/deeper/mine.txt", "overlays/mine.png", "instances/moved.jpg.json"}
    assert left == {"predictions.json", "instances/a.jpg.json", "overlays/a.jpg.png", *mine}
    assert not (out / "overlays" / "deeper").exists()
    assert predict(settings, data, out, "--clean", images=[str(photos)]) == 0
    shown = capsys.readouterr()
    assert "removed" not in shown.err + shown.out


def test_what_is_behind_a_link_is_not_removed(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (photos / "deeper").mkdir()
    (photos / "b.jpg").rename(photos / "deeper" / "b.jpg")
    assert predict(settings, data, out, images=[str(photos)]) == 0
    (out / "overlays" / "deeper").rename(tmp_path / "elsewhere")
    (out / "overlays" / "deeper").symlink_to(tmp_path / "elsewhere")
    assert predict(settings, data, out, "--clean", images=[str(photos / "a.jpg")]) == 0
    assert (tmp_path / "elsewhere" / "b.jpg.png").is_file()
    assert not (out / "instances" / "deeper").exists()


def test_folders_that_may_not_be_opened_are_named(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "private").mkdir(mode=0)
    (photos / "linked").symlink_to(tmp_path / "gone")
    with permissions_bind():
        assert predict(settings, data, tmp_path / "out", "--report", images=[str(photos)]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
        assert predict(settings, data, tmp_path / "strict", "--strict", images=[str(photos)]) == 2
        assert "linked is a broken link" in one_error(capsys)
        assert predict(settings, data, tmp_path / "none", images=[str(photos / "private")]) == 2
    assert len(lines) == 2
    assert "linked is a broken link" in lines[0]
    assert "private cannot be opened, nor can the images in it: Permission denied" in lines[1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the folder private cannot be opened" in page
    assert str(tmp_path) not in page


def test_names_never_steer_the_terminal(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever puts a file into the folder chooses its name."""
    evil, out = "\x1b[2J\x1b]0;title\x07 [red] :smile:", tmp_path / "[/red]:smile:"
    (photos / "b.jpg").rename(photos / f"{evil}.jpg")
    document = read(data.references)
    document["categories"][0]["name"] = f"[/red]{evil}"
    references = tmp_path / "references.json"
    references.write_text(json.dumps(document))
    named = ("--references", str(references))
    assert predict(settings, data, out, *named, images=[str(photos)]) == 0
    (photos / f"{evil}.jpg").write_text("no image")
    assert predict(settings, data, out, *named, images=[str(photos)]) == 0
    shown = capsys.readouterr()
    assert re.search(r"left out: .*\\x1b\[2J\\x1b\]0;title\\x07 \[red\] :smile:\.jpg is not an image", shown.err)
    assert re.search(r"left over: .*\\x1b\[2J", shown.err)
    assert str(out / "predictions.json") in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert predict(settings, data, out, *named, "--strict", images=[str(photos)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_special_files_as_inputs_are_refused_at_once(
    settings: Path, data: TinyData, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, begin = tmp_path / "pipe.jpg", time.monotonic()
    os.mkfifo(pipe)
    for option in ("--references", "--config", "--memory", "--encoder-weights", "--sam2-weights", "--images"):
        given = ["--config", str(settings), "--output", str(tmp_path / "out"), "--images", str(photos)]
        if option != "--memory":
            given += ["--references", str(data.references), "--reference-images", str(data.images)]
        if option == "--images":
            del given[-6:-4]
        assert main(["predict", *given, option, str(pipe)]) == 2, option
        lines = capsys.readouterr().err.splitlines()
        assert any("pipe.jpg" in line for line in lines), (option, lines)
    # Nothing waited for a writer; loading the models takes a few seconds.
    assert time.monotonic() - begin < 120
