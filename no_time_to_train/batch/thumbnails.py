"""Small pictures for a page: an image as JPEG, and masks as outlines that lie over it."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
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
        import cv2  # of the extra `draw`

        padded = np.pad(mask.astype(np.uint8), 1)
        contours, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        # Contours run through the centres of pixels, and one pixel was put before the first.
        shift = np.array(corner) - 0.5
        parts = []
        for contour in contours:
            points = ((contour[:, 0] + shift) * self.scale).astype(np.float32)
            kept = cv2.approxPolyDP(points[:, None], _TOLERANCE, closed=True)[:, 0]
            rounded = np.rint(kept * _UNITS).astype(int)
            steps = np.diff(rounded, axis=0)
            moves = f"l{' '.join(f'{x} {y}' for x, y in steps)}" if len(steps) else ""
            parts.append(f"M{rounded[0, 0]} {rounded[0, 1]}{moves}z")
        return "".join(parts)

    def box(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Bring x, y, width and height in pixels of the image to the picture's units."""
        x, y, width, height = (round(side * self.scale * _UNITS) for side in box)
        return x, y, max(1, width), max(1, height)


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
