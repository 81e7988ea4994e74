"""Draw masks over images."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

_FONT_SIZE, _PADDING = 11, 2


def _palette() -> tuple[Color, ...]:
    """Return 20 colors of which neighbors differ much: steps of the golden ratio around the circle of hues."""
    hues = ((0.93 + 0.618034 * index) % 1 for index in range(20))
    shades = (colorsys.hsv_to_rgb(hue, (0.85, 0.6)[index // 5 % 2], 0.95) for index, hue in enumerate(hues))
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shades)


# RGB, by label; more labels begin again.
PALETTE = _palette()


def draw_masks(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "M H W"],
    labels: Sequence[int],
    captions: Sequence[str],
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw masks over an image (RGB), colored by label, each with its caption; `opacity` 0 draws outlines alone.

    Of masks that overlap the smaller one is on top.
    """
    filled, edges = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    boxes: list[tuple[int, int, int, int] | None] = [_box_of(mask) for mask in masks]
    areas = masks.sum(axis=(1, 2))
    covered = np.zeros(image.shape[:2], dtype=bool)
    outlined = image.copy()
    for index in np.argsort(-areas, kind="stable"):
        box = boxes[index]
        if box is None:
            continue
        part = slice(box[1], box[3]), slice(box[0], box[2])
        mask, color = masks[index][part], PALETTE[int(labels[index]) % len(PALETTE)]
        filled[part][mask] = color
        covered[part] |= mask
        edge = _edge_of(mask)
        outlined[part][edge] = color
        edges[part] |= edge
    mixed = np.rint(opacity * filled.astype(np.float32) + (1 - opacity) * image.astype(np.float32)).astype(np.uint8)
    scene = np.where(edges[..., None], outlined, np.where(covered[..., None], mixed, image))
    if not any(captions):
        return scene
    picture = Image.fromarray(scene)
    _write_captions(picture, boxes, labels, captions)
    return np.array(picture)


def _box_of(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int] | None:
    """Return the box of a mask as x1, y1, x2, y2, the last excluded; None for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return None if not len(rows) else (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _edge_of(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask next to one that is not of it, or to the border."""
    around = np.pad(mask, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge: Bool[np.ndarray, "h w"] = mask & ~inner
    return edge


def _write_captions(
    picture: Image.Image,
    boxes: Sequence[tuple[int, int, int, int] | None],
    labels: Sequence[int],
    captions: Sequence[str],
) -> None:
    """Write each caption above its mask, or where there is room: inside, or below."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_FONT_SIZE)
    taken: list[tuple[float, float, float, float]] = []
    for box, label, caption in zip(boxes, labels, captions, strict=True):
        if box is None or not caption:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), caption, font=font)
        width, height = right - left + 2 * _PADDING, bottom - top + 2 * _PADDING
        x = max(0, min(box[0], picture.width - width))
        places = [
            (x, y, x + width, y + height)
            for y in (box[1] - height, box[1], box[3], box[3] - height)
            if 0 <= y <= picture.height - height
        ] or [(x, 0, x + width, height)]
        place = next((one for one in places if not any(_overlap(one, other) for other in taken)), places[0])
        taken.append(place)
        color = PALETTE[int(label) % len(PALETTE)]
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=color)
        # By the luma of ITU-R BT.601.
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        where = (place[0] + _PADDING - left, place[1] + _PADDING - top)
        pen.text(where, caption, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
