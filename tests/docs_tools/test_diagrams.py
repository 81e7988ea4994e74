"""The drawings of the architecture page say what the package is."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs_tools.diagrams import DRAWINGS, IMAGES, NOTES, WIDTH, read_floors

SVG = "{http://www.w3.org/2000/svg}"


def test_every_room_has_a_note() -> None:
    assert set(NOTES) == {room for floor in read_floors() for room in floor}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_as_the_script_makes_them(name: str) -> None:
    assert (IMAGES / name).read_text() == DRAWINGS[name](), "run: python -m docs_tools.diagrams"


@pytest.mark.parametrize("name", DRAWINGS)
def test_boxes_lie_within_the_picture_and_apart(name: str) -> None:
    root = ElementTree.fromstring(DRAWINGS[name]())  # noqa: S314 # it is our own
    height = float(root.attrib["height"])
    rectangles = [shape.attrib for shape in root.iter(f"{SVG}rect") if "class" in shape.attrib]
    boxes = [tuple(float(each[side]) for side in ("x", "y", "width", "height")) for each in rectangles]
    assert len(boxes) > 10
    for index, (x, y, width, tall) in enumerate(boxes):
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + tall <= height
        for left, top, wide, high in boxes[:index]:
            assert x + width <= left or left + wide <= x or y + tall <= top or top + high <= y


def test_images_are_where_the_page_names_them() -> None:
    page = (Path(IMAGES).parent / "architecture.md").read_text()
    assert all(f"(images/{name})" in page for name in DRAWINGS)
