"""Small videos whose frames say which they are."""

import struct
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

WIDTH, HEIGHT, RATE = 64, 48, 10
_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Clockwise by a quarter, as telephones write it.
_TURNED = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)


def picture(index: int) -> UInt8[np.ndarray, "48 64 3"]:
    """Return a frame: a white stripe at the left, then the bits of its index, and noise below."""
    pixels = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
    pixels[:, :8] = 255
    for bit in range(6):
        pixels[:32, 16 + 8 * bit : 24 + 8 * bit] = 220 if index >> bit & 1 else 40
    pixels[32:, 8:] = np.random.default_rng(index).integers(0, 255, (16, WIDTH - 8, 3))
    return pixels


def index_of(image: Image.Image) -> int:
    """Return which frame an image is."""
    means = np.asarray(image)[4:28, 16:].reshape(24, 6, 8, 3).mean(axis=(0, 2, 3))
    return sum(int(mean > 130) << bit for bit, mean in enumerate(means))


def write_video(path: Path, *, frames: int = 35, codec: str = "libx264", turned: bool = False) -> Path:
    """Write a video, 10 frames a second; its index of an MP4 comes first, so that one that is cut off can be read."""
    with av.open(path, "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = 10
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    if turned:
        content = path.read_bytes()
        begin = content.index(_UPRIGHT, content.index(b"tkhd"))
        path.write_bytes(content[:begin] + _TURNED + content[begin + len(_TURNED) :])
    return path


def cut(path: Path, share: float) -> Path:
    """Cut the end of a file off."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path
