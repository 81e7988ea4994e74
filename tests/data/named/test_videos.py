"""Frames of videos: which, when, what they show, and what is said of broken ones."""

import builtins
import os
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from no_time_to_train.data.image_files import image_endings
from no_time_to_train.data.named.videos import VIDEO_ENDINGS, Video, open_video
from no_time_to_train.errors import ImageReadError, MissingExtraError
from tests.videos import HEIGHT, RATE, WIDTH, cut, index_of, write_video


def read(video: Video) -> dict[int, int | str]:
    """Return which frame each one that is to be looked at is, or what is said of it."""
    found: dict[int, int | str] = {}
    for index in video.frames:
        try:
            found[index] = index_of(video.read(index))
        except ImageReadError as error:
            found[index] = error.message
    return found


def test_no_file_is_both_an_image_and_a_video() -> None:
    assert not VIDEO_ENDINGS & image_endings()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx265"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.ts", "libx264"),
    ],
)
def test_frames_have_their_index_and_time(tmp_path: Path, name: str, codec: str) -> None:
    """Also where frames are stored in another order than they are shown, as H.264 does."""
    path = write_video(tmp_path / name, codec=codec)
    video = open_video(path)
    assert (video.size, video.fault) == ((WIDTH, HEIGHT), None)
    assert video.frames == range(0, 35, RATE)
    # Matroska's times are in milliseconds.
    assert video.seconds == pytest.approx([index / RATE for index in range(35)], abs=1e-3)
    assert read(video) == {index: index for index in range(0, 35, RATE)}
    assert read(open_video(path, 1)) == {index: index for index in range(35)}


def test_frames_in_any_order(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4"), 7)
    assert [index_of(video.read(index)) for index in (14, 14, 7, 28, 0, 28)] == [14, 14, 7, 28, 0, 28]


def test_a_video_of_a_telephone_is_upright(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4", turned=True))
    pixels = np.asarray(video.read(0))
    assert (video.size, pixels.shape) == ((HEIGHT, WIDTH), (WIDTH, HEIGHT, 3))
    # The stripe that is stored at the left is at the top.
    assert pixels[:6].min() > 200
    assert pixels[10:, 18:].max() < 100


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_one_that_is_cut_off_gives_what_there_is(tmp_path: Path, ending: str) -> None:
    path = cut(write_video(tmp_path / f"a.{ending}"), 0.7)
    video = open_video(path)
    assert video.fault is not None
    assert f"a.{ending} ends " in video.fault.message
    assert f" s early: {len(video.seconds)} frames could be found" in video.fault.message
    found = read(video)
    assert [found[0], found[10]] == [0, 10]
    assert len(found) < 4


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_damaged_frames_are_named_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, frames=50)
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        # One that stands for itself, and the next ones: later frames are made from them.
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        begin, end = keys[1], next(key for key in keys if key >= keys[1] + 5)
        for packet in packets[begin : begin + 5]:
            assert packet.pos is not None
            content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path.write_bytes(content)
    video = open_video(path, 1)
    assert video.fault is None
    found = read(video)
    damaged = {index for index, what in found.items() if what != index}
    assert begin in damaged
    # Frames before a key frame may be made from it too.
    assert damaged <= set(range(begin - 3, end))
    assert {found[index] for index in damaged} == {
        f"frame {index} of {path} is damaged and was not decoded" for index in damaged
    }


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damage_anywhere_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    """A crash of FFmpeg, or another error, would end a run over many files."""
    path, rng = write_video(tmp_path / name, frames=12), np.random.default_rng(0)
    whole = path.read_bytes()
    read_anyway = 0
    for _ in range(40):
        content = bytearray(whole)
        for position in rng.integers(0, len(content), 8):
            content[position] = rng.integers(256)
        path.write_bytes(content[: rng.integers(1, 2 * len(content))])
        said = ""
        try:
            found = read(open_video(path, 3))
        except ImageReadError as error:
            found, said = {}, error.message
        read_anyway += not said
        assert all(type(what) is int or str(path) in str(what) for what in (*found.values(), said or 0))
    assert read_anyway


def test_a_damaged_video_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from its beginning for each frame that is missing."""
    video = open_video(cut(write_video(tmp_path / "a.mkv", frames=50), 0.9), 1)
    opened: list[Any] = []
    before = av.open

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return before(*args, **options)

    monkeypatch.setattr(av, "open", counted)
    video._indices.pop(max(video._indices))  # as if the last one were lost
    read(video)
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a video that FFmpeg can read"),
        (bytes(4096), "is not a video that FFmpeg can read"),
        # A playlist would have FFmpeg open further files and addresses.
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "is not a video that FFmpeg can read"),
        (b"ffconcat version 1.0\nfile 'b.mp4'\n", "is not a video that FFmpeg can read"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, said: str) -> None:
    write_video(tmp_path / "b.mp4", frames=2)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"a\.mp4 {said}"):
        open_video(tmp_path / "a.mp4")


def test_one_whose_index_is_lost(tmp_path: Path) -> None:
    """As of a recording that was broken off: it is written last."""
    path = write_video(tmp_path / "a.mov")
    assert path.read_bytes().index(b"moov") > path.stat().st_size / 2
    with pytest.raises(ImageReadError, match=r"a\.mov is not a video .*it may have been cut off"):
        open_video(cut(path, 0.7))


def test_one_of_sound_alone(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ImageReadError, match=r"a\.mp4 has no pictures, only sound"):
        open_video(tmp_path / "a.mp4")


def test_frames_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ImageReadError, match="frames of 64x48 pixels, more than is safe"):
        open_video(write_video(tmp_path / "a.mp4"))


def test_one_that_goes_away(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    video, begun = open_video(path), open_video(path)
    begun.read(0)
    path.unlink()
    for index, each in ((0, video), (10, begun)):
        with pytest.raises(ImageReadError, match=rf"frame {index} of .*a\.mp4 cannot be read: No such file"):
            each.read(index)


def test_one_that_is_touched_and_one_that_is_written_to(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    video = open_video(path)
    video.read(0)
    os.utime(path, (0, 0))
    assert index_of(video.read(10)) == 10
    write_video(path, frames=34)
    with pytest.raises(ImageReadError, match=r"a\.mp4 was written to after its frames were listed \(wait until"):
        video.read(20)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4")
    for name in [name for name in sys.modules if name.split(".")[0] == "av"]:
        monkeypatch.delitem(sys.modules, name)
    importing = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return importing(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"a\.mp4 needs av, .* \(pip install \"no-time-to-train\[video\]\"\)"):
        open_video(path)
