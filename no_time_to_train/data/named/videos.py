"""Frames of video files, by PyAV: which there are, and their pixels."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from no_time_to_train.errors import ImageReadError
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.io.messages import missing_extra
from no_time_to_train.io.paths import open_regular

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

VIDEO_ENDINGS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"}
    | {".wmv"}
)
# FFmpeg's other demuxers read playlists, which name further files and addresses.
_FORMATS = "asf,avi,flv,matroska,mov,mpeg,mpegts,mpegvideo,ogg"
# What may be missing at the end, in seconds, before a video counts as cut off: headers round.
_TOLERANCE = 1.0
_UNKNOWN_RATE = Fraction(25)


@dataclass(eq=False)
class Video:
    """A video file and frames of it that are to be looked at, which are decoded as they are read, best in their order.

    Attributes:
        path: The file.
        stamp: Of its content when the frames were listed.
        frames: Indices of the frames to look at.
        size: Width and height of a frame in pixels, as seen.
        seconds: The time of each frame of the file, from the first one.
        fault: What is wrong with it as a whole, such as that it is cut off.
    """

    path: Path
    stamp: FileStamp
    frames: range
    size: tuple[int, int]
    seconds: list[float]
    fault: ImageReadError | None = None
    _indices: dict[int, int] = field(default_factory=dict, repr=False)
    _decoder: Generator[tuple[int, "av.VideoFrame"], None, None] | None = field(default=None, repr=False)
    _newest: tuple[int, "av.VideoFrame"] | None = field(default=None, repr=False)
    _last_read: int = -1

    def read(self, index: int) -> Image.Image:
        """Decode a frame.

        Args:
            index: From 0, in the order in which frames are shown. If it is below that of the frame that was read last,
                the video is decoded from its beginning again.

        Returns:
            The frame in mode ``RGB``, the right way up.

        Raises:
            ImageReadError: It cannot be decoded, or the file has another content than when its frames were listed.
        """
        if self._decoder is None or index < self._last_read:
            self._decoder, self._newest = self._decoded(), None
        self._last_read = index
        try:
            while self._newest is None or self._newest[0] < index:
                self._newest = next(self._decoder)
            self._check_content()
        except ImageReadError:
            raise
        except StopIteration:
            raise self._damaged(index) from None
        except Exception as error:  # The file is gone, or FFmpeg gives up.
            raise ImageReadError(
                f"frame {index} of {self.path} cannot be read: {_reason(error)}", remedy="check the file"
            ) from error
        found, frame = self._newest
        if index == self.frames[-1]:
            # Decoders of many videos would take much memory.
            self._decoder.close()
            self._decoder = None
        if found != index or frame.is_corrupt:
            raise self._damaged(index)
        turns = _turns(frame)
        return Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)))

    def _check_content(self) -> None:
        """Refuse a file that was written to since its frames were listed: frames of two videos would get mixed up.

        Raises:
            ImageReadError: It was.
            OSError: It is gone.
        """
        if self.stamp.same_state(self.path):
            return
        with open_regular(self.path) as handle:
            now = FileStamp.of(handle)
        if now.sha256 != self.stamp.sha256:
            raise ImageReadError(
                f"{self.path} was written to after its frames were listed",
                remedy="wait until it is written, and run the same command again",
            )
        self.stamp = now

    def _damaged(self, index: int) -> ImageReadError:
        return ImageReadError(
            f"frame {index} of {self.path} is damaged and was not decoded", remedy="copy the video again"
        )

    def _decoded(self) -> Generator[tuple[int, "av.VideoFrame"], None, None]:
        """Decode one frame after another; what is damaged is passed over."""
        from av.error import FFmpegError

        with _opened(self.path) as container:
            stream = _pictures_of(container)
            assert stream is not None
            stream.thread_type = "AUTO"
            count = 0
            for packet in _packets(container, stream):
                try:
                    frames = stream.decode(packet)
                except FFmpegError:
                    continue
                for frame in frames:
                    # Times are known from the list of packets; without them, frames are counted.
                    index = self._indices.get(frame.pts, -1) if self._indices and frame.pts is not None else count
                    count += 1
                    if index >= 0:
                        yield index, frame


def open_video(path: Path, every: int | None = None) -> Video:
    """List the frames of a video; none is decoded but the first.

    Args:
        path: The file.
        every: Look at every `every`-th frame from the first on; at about one a second if it is None.

    Raises:
        ImageReadError: It cannot be read, or has no frames.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av.error  # noqa: F401 - so that a missing PyAV is told before a file is opened
    except ImportError as error:
        raise missing_extra(str(error), f"the video {path}") or error from error
    try:
        with open_regular(path) as handle:
            stamp = FileStamp.of(handle)
        return _listed(path, stamp, every)
    except ImageReadError:
        raise
    except Exception as error:  # FFmpeg's errors are of many kinds.
        raise ImageReadError(
            f"{path} is not a video that FFmpeg can read: {_reason(error)}",
            remedy="copy the file again, it may have been cut off, or convert it to MP4",
        ) from error


def _listed(path: Path, stamp: FileStamp, every: int | None) -> Video:
    from av.error import FFmpegError

    with _opened(path) as container:
        stream = _pictures_of(container)
        if stream is None:
            raise ImageReadError(f"{path} has no pictures, only sound", remedy="name another file")
        times: list[int | None] = []
        end, num_packets, said = 0.0, 0, ""
        try:
            for packet in container.demux():
                if packet.dts is None and packet.pts is None and not packet.size:
                    continue  # the end of a stream
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == stream.index:
                    num_packets += 1
                    if packet.size and not packet.is_discard:
                        times.append(packet.pts)
        except FFmpegError as error:
            said = f" ({_reason(error)})"
        known = sorted({time for time in times if time is not None})
        # AVI stores no times, and FFmpeg's guess is wrong where frames are stored in another order.
        guessed = "avi" in container.format.name and stream.codec_context.has_b_frames
        complete = len(known) == len(times) and not guessed
        base = stream.time_base or Fraction(1)
        rate = float(stream.average_rate or _UNKNOWN_RATE)
        if complete and len(known) > 1:
            rate = float((len(known) - 1) / ((known[-1] - known[0]) * base))
        seconds = (
            [round(float((time - known[0]) * base), 6) for time in known]
            if complete
            else [round(index / rate, 6) for index in range(len(times))]
        )
        missing = 0.0
        if container.duration is not None:
            missing = container.duration / 1e6 - (end - (container.start_time or 0) / 1e6)
        if "mov" not in container.format.name:  # whose frames before and after what is shown are not given
            missing = max(missing, (stream.frames - num_packets) / rate)
        cut_off = missing > (2 / rate if num_packets < stream.frames else _TOLERANCE)
    frames = range(0, len(seconds), every or max(1, round(rate)))
    video = Video(path, stamp, frames, (0, 0), seconds)
    video._indices = {time: index for index, time in enumerate(known)} if complete else {}
    if said or cut_off:
        what = f"ends {missing:.1f} s early" if cut_off else "is damaged"
        video.fault = ImageReadError(
            f"{path} {what}{said}: {len(times)} frames could be found", remedy="copy the video again"
        )
    video.size = _size_of_frames(video)
    return video


def _size_of_frames(video: Video) -> tuple[int, int]:
    """Return the size of the first frame that can be decoded, as seen.

    Raises:
        ImageReadError: None can be, or they have more pixels than is safe to decode.
    """
    found = next(video._decoded(), None)
    if found is None:
        raise ImageReadError(f"{video.path} has no frame that can be decoded", remedy="copy the video again")
    width, height = found[1].width, found[1].height
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageReadError(
            f"{video.path} has frames of {width}x{height} pixels, more than is safe to decode",
            remedy="make the video smaller, or raise PIL.Image.MAX_IMAGE_PIXELS",
        )
    return (height, width) if _turns(found[1]) % 2 else (width, height)


def _turns(frame: "av.VideoFrame") -> int:
    """Return how often a frame is to be turned by 90 degrees, counterclockwise, to be upright."""
    return round(frame.rotation / 90) % 4


@contextmanager
def _opened(path: Path) -> Iterator["InputContainer"]:
    import av

    # By a handle: FFmpeg takes names such as `concat:a|b` for more than a file.
    with open_regular(path) as handle, av.open(handle, "r", options={"format_whitelist": _FORMATS}) as container:
        yield container


def _pictures_of(container: "InputContainer") -> "av.VideoStream | None":
    """Return the stream of pictures that players show, if there is one; not a cover."""
    import av

    stream = container.streams.best("video")
    return stream if isinstance(stream, av.VideoStream) else None


def _packets(container: "InputContainer", stream: "av.VideoStream") -> Iterator["av.Packet[av.VideoStream] | None"]:
    """Return a stream's packets and None, which makes the decoder give what it holds back, also of a damaged file."""
    from av.error import FFmpegError

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except FFmpegError:
        pass
    yield None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
