"""One picture of a whole run: the references above, what was found below."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from no_time_to_train.io.atomic import atomic_path

Picture = UInt8[np.ndarray, "H W 3"]

_GAP = 10
_CAPTION = 18
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def contact_sheet(
    references: Sequence[tuple[Picture, str]],
    targets: Sequence[Picture],
    path: Path,
    *,
    columns: int = 4,
    side: int = 256,
) -> None:
    """Write a PNG with two rows of captioned references above rows of targets.

    Args:
        references: Pictures with their captions.
        targets: Pictures.
        path: The file to write.
        columns: Targets beside each other; references are half as wide, so that twice as many fit.
        side: Width and height of a target, in pixels.

    Raises:
        OutputError: The file cannot be written.
    """
    width = columns * (side + _GAP) + _GAP
    small = (width - _GAP) // (2 * columns) - _GAP
    strip = -(-len(references) // (2 * columns)) * (small + _CAPTION + _GAP)
    rows = -(-len(targets) // columns)
    height = _GAP + 2 * _CAPTION + strip + 2 * _CAPTION + rows * (side + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, title = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pen.text((_GAP, _GAP), "One of the references of each class, with its mask", fill=_INK, font=title)
    top = _GAP + 2 * _CAPTION
    for place, (picture, caption) in enumerate(references):
        left = _GAP + place % (2 * columns) * (small + _GAP)
        upper = top + place // (2 * columns) * (small + _CAPTION + _GAP)
        sheet.paste(_scaled(picture, small), (left, upper))
        pen.text((left, upper + small + 2), caption, fill=_INK, font=ImageFont.load_default(10))
    top += strip
    pen.text((_GAP, top), "What was found in images that show them among other things", fill=_INK, font=title)
    top += 2 * _CAPTION
    for place, picture in enumerate(targets):
        position = (_GAP + place % columns * (side + _GAP), top + place // columns * (side + _GAP))
        sheet.paste(_scaled(picture, side), position)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _scaled(picture: Picture, side: int) -> Image.Image:
    return Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
