import pytest

from no_time_to_train.configs.limits import check_number
from no_time_to_train.errors import ConfigError


@pytest.mark.parametrize("value", [None, 1, 7, 10])
def test_numbers_within_bounds_pass(value: int | None) -> None:
    check_number("shots", value, 1, 10, "every shot is an image")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, r"shots is 0, expected at least 1 \(set shots to 1 or more\)"),
        (-(10**30), "shots is a number of 31 digits, expected at least 1"),
        (11, r"shots is 11, expected 1 to 10 \(lower it: every shot is an image\)"),
        (10**20, "shots is a number of 21 digits, expected 1 to 10"),
        pytest.param(10**5000, "shots is a number of more than 1000 digits, expected 1 to 10", id="no text"),
    ],
)
def test_others_are_refused(value: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_number("shots", value, 1, 10, "every shot is an image")
