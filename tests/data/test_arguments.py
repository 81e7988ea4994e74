from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from no_time_to_train.data.arguments import (
    check_not_replaced,
    checked_box,
    checked_label,
    checked_number,
    checked_path,
    checked_points,
)
from no_time_to_train.errors import ConfigError

HEIGHT, WIDTH = 20, 30


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 30, 20),
        [29, 19, 30, 20],
        np.array([1.5, 2, 3, 4]),
        torch.tensor([1, 2, 3, 4]),
        [np.float32(1), torch.tensor(2), 3, 4],
        iter([1, 2, 3, 4]),
    ],
    ids=str,
)
def test_boxes_within_the_image(box: Any) -> None:
    found = checked_box(box, (HEIGHT, WIDTH))
    assert all(type(number) is float for number in found)
    assert found[2] > found[0]


@pytest.mark.parametrize(
    "box",
    [(-1, 0, 9, 9), (0, -1, 9, 9), (5, 0, 5, 9), (0, 5, 9, 5), (0, 0, 31, 9), (0, 0, 9, 21), (9, 0, 5, 9)],
)
def test_boxes_outside_the_image(box: Any) -> None:
    with pytest.raises(ConfigError, match=r"in an image 30 wide and 20 high.*COCO's boxes are x, y, width, height"):
        checked_box(box, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "box",
    [
        "1234",
        b"1234",
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        [[1, 2, 3, 4]],
        ["1", "2", "3", "4"],
        [True, True, True, True],
        [1, [2], 3, 4],
        [10**400, 1, 2, 3],
        None,
        torch.empty(4, device="meta"),
        [],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_not_a_box(box: Any) -> None:
    with pytest.raises(ConfigError, match="expected four numbers"):
        checked_box(box, (HEIGHT, WIDTH))


def test_points() -> None:
    assert checked_points([(0, 0), (29.5, 19.5)], (HEIGHT, WIDTH)) == [(0, 0), (29.5, 19.5)]
    assert checked_points(torch.tensor([[3, 4]]), (HEIGHT, WIDTH)) == [(3, 4)]
    for outside in ([30, 0], [0, 20], [-1, 0], [0, -1]):
        with pytest.raises(ConfigError, match="outside an image 30 wide and 20 high"):
            checked_points([(1, 1), outside], (HEIGHT, WIDTH))
    nothings: tuple[Any, ...] = ([], np.zeros((0, 2)), torch.zeros(0, 2))
    for nothing in nothings:
        with pytest.raises(ConfigError, match="points are empty"):
            checked_points(nothing, (HEIGHT, WIDTH))
    for wrong in ((3, 4), [(1, 2, 3)], "ab", [("a", "b")], [[[1, 2]]], 5):
        with pytest.raises(ConfigError, match="expected a list of points"):
            checked_points(wrong, (HEIGHT, WIDTH))


def test_numbers() -> None:
    for value in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert checked_number(value, "score") == 0.5
    assert checked_number(0, "score") == 0
    wrongs: tuple[Any, ...] = ("0.5", True, None, [0.5], np.array([0.5]), float("nan"), np.array("a"), {})
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=r"score is .*, expected a number"):
            checked_number(wrong, "score")


def test_labels() -> None:
    assert checked_label("boat") == "boat"
    for wrong in ("", 5, None, "\udcff"):
        with pytest.raises(ConfigError, match="needs a label as text"):
            checked_label(wrong)


def test_paths() -> None:
    assert checked_path("a/b", "images") == checked_path(Path("a/b"), "images") == Path("a/b")
    for wrong in (b"a", 5, None):
        with pytest.raises(ConfigError, match=r"images is .*, expected a path"):
            checked_path(wrong, "images")


def test_outputs_that_would_replace_inputs(tmp_path: Path) -> None:
    (tmp_path / "in.json").touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "in.json")
    check_not_replaced([tmp_path / "out.json"], {"--references": tmp_path / "in.json", "--memory": None})
    with pytest.raises(ConfigError, match=r"--references is .*in\.json, which the output would replace"):
        check_not_replaced([tmp_path / "link.json"], {"--memory": None, "--references": tmp_path / "in.json"})
