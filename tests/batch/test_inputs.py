"""`ntt predict` on inputs other than image files and folders: patterns, lists, standard input, HEIC, and videos."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from no_time_to_train.batch.image_paths import common_folder, find_images, image_files, share_of
from no_time_to_train.batch.run import RunSummary, predict_images
from no_time_to_train.cli.ntt import main
from no_time_to_train.data.datasets import ReferenceItem
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.errors import DataNotFoundError, ImageReadError
from tests.tiny import TinyData
from tests.videos import cut, index_of, write_video

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


def predict(settings: Path, data: TinyData, output: Path, *images: str | Path, more: tuple[str, ...] = ()) -> int:
    references = ["--references", str(data.references), "--reference-images", str(data.images)]
    options = ["--config", str(settings), *references, "--output", str(output), "--min-score", "0", *more]
    return main(["predict", *map(str, images), *options])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def names(output: Path) -> list[str]:
    return [image["file_name"] for image in read(output / "predictions.json")["images"]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "june/c.png", "june/d.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (200, 90, 30)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "list.txt").write_text("june/d.jpg\nb.png\n")
    return tmp_path / "photos"


class Finder:
    """Finds one disc in each image, and remembers which images it saw: what it finds does not matter here."""

    class_names = ("disc",)
    references = (("disc", np.ones(2), False),)
    random_weights = ()
    kind = "a finder"

    def __init__(self, at_each: Callable[[], object] = lambda: None) -> None:
        self.seen: list[int] = []
        self._at_each = at_each

    def describe(self) -> dict[str, str]:
        return {}

    def predict(self, images: np.ndarray) -> Prediction:
        self.seen.append(index_of(Image.fromarray(images)) if images.shape == (48, 64, 3) else -1)
        self._at_each()
        masks = np.zeros((1, *images.shape[:2]), dtype=bool)
        masks[0, 4:9, 5:20] = True
        boxes = np.array([[5, 4, 20, 9]], dtype=np.float32)
        size = (images.shape[0], images.shape[1])
        return Prediction(masks, boxes, np.array([0.5], np.float32), np.array([0]), self.class_names, size, 0)

    def object_of(self, item: ReferenceItem) -> Any:
        raise NotImplementedError


def find(finder: Finder, output: Path, *named: Path, every: int | None = None, **options: Any) -> RunSummary:
    """Look at images as the command does, without its models."""
    images = find_images(named, every=every)
    return predict_images(finder, images, output, run="a run", image_root=common_folder(named), **options)


def test_patterns_lists_and_standard_input(
    settings: Path, data: TinyData, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are within the folder that holds all; the second run does not take what the first one drew."""
    out = photos / "found"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{photos / 'june'}\n".encode())))
    assert predict(settings, data, out, "-", photos / "list.txt", photos / "*" / "c.png") == 0
    assert names(out) == ["june/c.png", "june/d.jpg", "b.png"]
    monkeypatch.chdir(photos)
    assert predict(settings, data, out, "[ab].png", "**/*.png") == 0
    assert names(out) == ["a.png", "b.png", "june/c.png"]


def test_photographs_of_a_telephone(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 48), (200, 90, 30))
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(tmp_path / "photos" / "IMG_1.HEIC", exif=exif.tobytes())
    picture.save(tmp_path / "photos" / "b.avif")
    for kept in (0, 2):
        outcome = find(Finder(), tmp_path / "out", tmp_path / "photos")
        assert outcome.kept == kept
        assert [(entry["file_name"], entry["width"]) for entry in outcome.entries] == [
            ("IMG_1.HEIC", 48),
            ("b.avif", 64),
        ]
    assert outcome.unreadable == []


def test_frames_are_done_once(photos: Path) -> None:
    path, out, finder = write_video(photos / "clip.mp4", frames=25), photos.parent / "out", Finder()
    outcome = find(finder, out, photos / "a.png", path)
    assert finder.seen[1:] == [0, 10, 20]
    assert [entry["file_name"] for entry in outcome.entries][1:] == [
        f"clip.mp4/0000{index}.png" for index in ("00", "10", "20")
    ]
    expected = {"video": "clip.mp4", "frame_index": 20, "seconds": 2.0}
    assert read(out / "instances/clip.mp4/000020.png.json")["frame"] == expected
    with Image.open(out / "overlays/clip.mp4/000010.png.png") as drawn:
        assert drawn.size == (64, 48)
    # Among more frames too.
    finder = Finder()
    assert find(finder, out, photos / "a.png", path, every=5).kept == 4
    assert finder.seen == [5, 15]
    # One whose entry is of another time is looked at again.
    entry = out / "instances/clip.mp4/000005.png.json"
    entry.write_text(entry.read_text().replace('"frame_index": 5', '"frame_index": 6'))
    finder = Finder()
    find(finder, out, photos / "a.png", path, every=5)
    assert finder.seen == [5]
    # So are all of another video of the same name.
    write_video(path, frames=12)
    finder = Finder()
    assert find(finder, out, path, photos / "a.png", every=11).kept == 1
    assert finder.seen == [0, 11]


def test_frames_in_what_is_written(
    settings: Path, data: TinyData, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_video(photos / "clip.mp4", frames=12), photos.parent / "out"
    more = ("--every", "11", "--report", "--format", "coco")
    assert predict(settings, data, out, photos / "a.png", path, more=more) == 0
    document = read(out / "predictions.json")
    assert document["images"][0] == {"id": 1, "file_name": "a.png", "height": 48, "width": 64}
    frame = {"id": 3, "file_name": "clip.mp4/000011.png", "height": 48, "width": 64}
    assert document["images"][2] == frame | {"video": "clip.mp4", "frame_index": 11, "seconds": 1.1}
    page = (out / "report.html").read_text()
    assert "clip.mp4/000011.png" in page
    assert page.count("data:image/jpeg") > 3
    written = read(out / "coco/annotations/instances_default.json")["images"]
    assert written[1:] == document["images"][1:]
    for index in (0, 11):
        with Image.open(out / f"coco/images/default/clip.mp4/{index:06}.png") as picture:
            assert index_of(picture) == index
    assert [entry.name for entry in out.iterdir() if entry.name.startswith(".")] == []


def test_files_of_frames(tmp_path: Path) -> None:
    """They are there for programs that read files, and go; another video's do not take their place."""
    (image,) = find_images([write_video(tmp_path / "clip.mp4", frames=4)])
    _, stamp = image.load()
    with image_files([(image, stamp)], tmp_path) as files:
        ((path, of_file),) = files
        assert of_file.same_content(path)
        with Image.open(path) as picture:
            assert index_of(picture) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    (other,) = find_images([write_video(tmp_path / "clip.mp4", frames=3)])
    with pytest.raises(DataNotFoundError, match=r"clip\.mp4 was written to"), image_files([(other, stamp)], tmp_path):
        pass


def test_shards_of_a_video(tmp_path: Path) -> None:
    images = find_images([write_video(tmp_path / "clip.mkv", frames=25)], every=5)
    seen = [[index_of(image.load()[0]) for image in share_of(images, share)] for share in ("1/2", "2/2")]
    assert seen == [[0, 10, 20], [5, 15]]


def test_a_video_that_is_cut_off(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "clip.mp4"), 0.7)
    outcome = find(Finder(), tmp_path / "out", path)
    assert [entry["file_name"] for entry in outcome.entries][:2] == ["clip.mp4/000000.png", "clip.mp4/000010.png"]
    image, error = outcome.unreadable[-1]
    assert image.name == "clip.mp4"
    assert "clip.mp4 ends 1." in str(error)
    with pytest.raises(ImageReadError, match=r"clip\.mp4 ends 1\."):
        find(Finder(), tmp_path / "other", path, strict=True)
    path.write_bytes(b"no video")
    ((image, error),) = find(Finder(), tmp_path / "out", path).unreadable
    assert (image.name, error.message[-90:].count("is not a video that FFmpeg can read")) == ("clip.mp4", 1)


def test_a_video_that_changes_meanwhile(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=12)
    finder = Finder(lambda: path.write_bytes(path.read_bytes() + b"more"))
    outcome = find(finder, tmp_path / "out", path)
    assert [image.frame for image in outcome.changed] == [0]
    ((image, error),) = outcome.unreadable
    assert image.frame == 10
    assert "clip.mp4 was written to after its frames were listed" in str(error)
    assert find(Finder(), tmp_path / "out", path).kept == 0


def test_videos_count_where_they_are_named(photos: Path) -> None:
    """Telephones keep a short video of each photograph next to it."""
    write_video(photos / "june" / "d.mov", frames=2)
    assert [image.name for image in find_images([photos])] == ["a.png", "b.png", "june/c.png", "june/d.jpg"]
    assert [image.name for image in find_images([photos / "june" / "d.mov"])] == ["d.mov/000000.png"]
    both = find_images([photos / "june", photos / "june" / "d.mov", photos / "june" / "d.mov"], every=1)
    assert [image.name for image in both] == ["c.png", "d.jpg", "d.mov/000000.png", "d.mov/000001.png"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--every", "0"), "every is 0, expected 1 or more"),
        (("--every", "2"), "--every is of videos, and none is named"),
        (("--every", "often"), "--every is often, expected a whole number"),
    ],
)
def test_frames_of_no_video(
    settings: Path,
    data: TinyData,
    photos: Path,
    more: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(settings, data, photos.parent / "out", photos, more=more) == 2
    assert said in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_what_needs_the_extra_says_so(settings: Path, data: TinyData, tmp_path: Path) -> None:
    """As where PyAV is not installed."""
    path = write_video(tmp_path / "clip.mp4", frames=2)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.modules['av'] = None\n"
    code += "from no_time_to_train.cli import main; sys.exit(main(sys.argv[1:]))"
    options: list[str | Path] = [
        "--config",
        settings,
        "-r",
        data.references,
        "--reference-images",
        data.images,
        "-o",
        tmp_path / "out",
    ]
    command = [sys.executable, "-c", code, ROOT, "predict", path, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'error: the video {path} needs av, which is not installed (pip install "no-time-to-train[video]")'
    ]
