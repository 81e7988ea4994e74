"""The contact sheet holds every picture where it belongs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.errors import OutputError
from no_time_to_train.results.contact_sheet import contact_sheet


def flat(*colour: int) -> np.ndarray:
    return np.full((40, 40, 3), colour, dtype=np.uint8)


def test_pictures_stand_in_rows(tmp_path: Path) -> None:
    references = [(flat(10 * index, 0, 200), f"class {index}") for index in range(5)]
    targets = [flat(0, 30 * index, 0) for index in range(3)]
    contact_sheet(references, targets, tmp_path / "sheet.png", columns=2, side=60)
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    for index in range(5):
        rows, columns = (sheet == (10 * index, 0, 200)).all(axis=2).nonzero()
        assert len(rows) > 500
        assert int(columns.min()) == 10 + (index % 4) * 35
    seen = [(sheet == (0, 30 * index, 0)).all(axis=2).nonzero() for index in (1, 2)]
    assert all(len(rows) == 60 * 60 for rows, _ in seen)
    assert int(seen[1][0].min()) == int(seen[0][0].min()) + 70


def test_nothing_to_show_is_a_sheet_too(tmp_path: Path) -> None:
    contact_sheet([], [], tmp_path / "empty.png")
    with Image.open(tmp_path / "empty.png") as picture:
        assert picture.size[0] > 1000
    with pytest.raises(OutputError):
        contact_sheet([], [], tmp_path)
