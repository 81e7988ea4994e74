"""A contact sheet of references with their masks, a row or more for each class."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from no_time_to_train.data.drawing import draw_masks
from no_time_to_train.data.images import load_image
from no_time_to_train.data.references import reference_window
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.results.reference_checks import CheckedReference, shown_mask

_GAP, _CAPTION, _TITLE, _LINE = 10, 43, 26, 13
_INK, _PAPER, _WARNING = (30, 30, 30), (255, 255, 255), (200, 20, 20)
# References are shown with this much around them, in longer sides of their boxes.
_AROUND = 1.6
_MOST_OF_A_CLASS = 60


def write_reference_sheet(
    checked: Sequence[CheckedReference], images: Path, path: Path, *, columns: int = 6, side: int = 180
) -> None:
    """Write a PNG of all references, by class, negative ones last; warnings are in red.

    A mask is filled. Of a reference without one the box is outlined, or its points are marked.

    Args:
        checked: Of `check_references`; of more than 60 of a class the first 60 are shown, and the title says so.
        images: The folder to which their file names are relative.
        path: The file to write.
        columns: References next to each other.
        side: Of the square in which each is shown, in pixels.

    Raises:
        ImageReadError: An image cannot be read.
        OutputError: The file cannot be written.
    """
    groups: dict[tuple[str, bool], list[CheckedReference]] = {}
    for each in sorted(checked, key=lambda each: (each.reference.class_index, each.reference.negative)):
        groups.setdefault((each.class_name, each.reference.negative), []).append(each)
    shown = {key: group[:_MOST_OF_A_CLASS] for key, group in groups.items()}
    rows = {key: -(-len(group) // columns) for key, group in shown.items()}
    height = _GAP + sum(_TITLE + count * (side + _CAPTION + _GAP) for count in rows.values())
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, height), _PAPER)
    pen, title, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(10)
    top = _GAP
    for (name, negative), group in shown.items():
        total = len(groups[name, negative])
        count = f"{total}" if total == len(group) else f"the first {len(group)} of {total}"
        pen.text((_GAP, top), f"{'not ' if negative else ''}{name}: {count}", fill=_INK, font=title)
        top += _TITLE
        for place, each in enumerate(group):
            left, upper = _GAP + place % columns * (side + _GAP), top + place // columns * (side + _CAPTION + _GAP)
            picture = _picture(each, images, side)
            sheet.paste(picture, (left + (side - picture.width) // 2, upper + (side - picture.height) // 2))
            if each.warnings:
                pen.rectangle((left - 2, upper - 2, left + side + 1, upper + side + 1), outline=_WARNING, width=2)
            lines = _wrapped(PurePath(each.reference.image.file_name).name, small, side, most=1)
            lines += _wrapped("; ".join(each.warnings), small, side, most=2)
            for line, text in enumerate(lines):
                fill = _WARNING if line else _INK
                pen.text((left, upper + side + 2 + _LINE * line), text, fill=fill, font=small)
        top += rows[name, negative] * (side + _CAPTION + _GAP)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _picture(each: CheckedReference, images: Path, side: int) -> Image.Image:
    image = np.array(load_image(images / each.reference.image.file_name))
    mask = shown_mask(each)
    annotation = each.annotation
    filled = annotation.segmentation is not None or bool(annotation.points)
    # A point has no size: what is around it is shown whole.
    box = annotation.bbox if min(annotation.bbox[2:]) else (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    x1, y1, x2, y2 = reference_window(box, image.shape[0], image.shape[1], _AROUND)
    scale = side / max(x2 - x1, y2 - y1)
    size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
    # Outlines are drawn at the size at which they are seen.
    cut = Image.fromarray(np.ascontiguousarray(image[y1:y2, x1:x2])).resize(size, Image.Resampling.LANCZOS)
    part = Image.fromarray(mask[y1:y2, x1:x2]).resize(size, Image.Resampling.NEAREST)
    label = each.reference.class_index
    return Image.fromarray(draw_masks(np.array(cut), np.array(part)[None], [label], [""], opacity=0.4 if filled else 0))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Break text into lines of a width in pixels; what does not fit is cut off, with dots."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines[most - 1] = " ".join(lines[most - 1 :])
    return [_cut(line, font, width) for line in lines[:most]]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
