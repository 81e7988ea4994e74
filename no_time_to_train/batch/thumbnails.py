"""Small pictures for a page: an image as JPEG, and masks as outlines that lie over it."""

import io
import math
from dataclasses import dataclass

import contourpy
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

# In tenths of a pixel, so that paths are whole numbers.
_UNITS = 10
_QUALITY = 78
# How far an outline may be from the mask's edge, in pixels of the picture.
_TOLERANCE = 0.6


@dataclass(frozen=True)
class Picture:
    """An image made small.

    Attributes:
        jpeg: The file.
        width: In pixels.
        height: In pixels.
        scale: Pixels of the picture in one of the image; at most 1.
    """

    jpeg: bytes
    width: int
    height: int
    scale: float

    @property
    def view_box(self) -> str:
        """The picture in the units of `outline` and `box`."""
        return f"0 0 {self.width * _UNITS} {self.height * _UNITS}"

    def outline(self, mask: Bool[np.ndarray, "H W"], corner: tuple[int, int] = (0, 0)) -> str:
        """Return a mask as an SVG path, to be filled by the even-odd rule.

        Args:
            mask: In pixels of the image, or a part of it.
            corner: Column and row of the part's first pixel.

        Returns:
            Empty for a mask without foreground.
        """
        padded = np.pad(mask.astype(np.float32), 1)
        # Contours run through the centers of pixels, and one pixel was put before the first.
        shift = np.array(corner) - 0.5
        parts = []
        for contour in contourpy.contour_generator(z=padded, name="serial").lines(0.5):
            points = (np.asarray(contour)[:-1] + shift) * self.scale
            rounded = np.rint(_simplified(points) * _UNITS).astype(int)
            steps = np.diff(rounded, axis=0)
            moves = f"l{' '.join(f'{x} {y}' for x, y in steps)}" if len(steps) else ""
            parts.append(f"M{rounded[0, 0]} {rounded[0, 1]}{moves}z")
        return "".join(parts)

    def box(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Bring x, y, width and height in pixels of the image to the picture's units."""
        x, y, width, height = (round(side * self.scale * _UNITS) for side in box)
        return x, y, max(1, width), max(1, height)


def _simplified(points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "M 2"]:
    """Leave out points of a closed line that are within the tolerance of what is kept (Douglas and Peucker)."""
    # Two points far apart, between which the line is two open ones.
    far = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([points, points[:1]])
    kept = np.zeros(len(points), dtype=bool)
    kept[[0, far]] = True
    pending = [(0, far), (far, len(points))]
    while pending:
        start, end = pending.pop()
        if end - start < 2:
            continue
        begin, between = closed[start], closed[start + 1 : end] - closed[start]
        along = closed[end] - begin
        length = math.hypot(*along)
        if length > 0:
            distances = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / length
        else:
            distances = np.hypot(between[:, 0], between[:, 1])
        middle = start + 1 + int(np.argmax(distances))
        if distances.max() > _TOLERANCE:
            kept[middle % len(points)] = True
            pending += [(start, middle), (middle, end)]
    return points[kept]


def picture_of(image: Image.Image, side: int) -> Picture:
    """Make an image small.

    Args:
        image: RGB.
        side: Most pixels of the longer side; smaller images stay as they are.
    """
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image if scale == 1 else image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, optimize=True, progressive=True)
    return Picture(stream.getvalue(), width, height, scale)
