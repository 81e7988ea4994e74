"""Bounds of numbers that users set, checked before anything is allocated for them."""

from no_time_to_train.errors import ConfigError

MOST_IN_BATCH = 2**16
MOST_WORKERS = 1024
MOST_IMAGES = 100_000
MOST_SCENES = 10**8
TOGETHER = "what is computed together is in memory together"

_LONGEST = 12  # digits that a message shows


def check_number(name: str, value: int | None, lowest: int, highest: int, why: str) -> None:
    """Refuse a whole number that is out of its bounds.

    Args:
        name: The setting as the user writes it.
        value: What was set; None is left to the default.
        lowest: The least that makes sense.
        highest: The most that any machine can do.
        why: What the setting costs, as a clause after the upper bound.

    Raises:
        ConfigError: It is less than `lowest` or more than `highest`.

    Examples:
        >>> check_number("shots", 10, 1, 1000, "every shot is an image")
        >>> check_number("shots", 10**20, 1, 1000, "...")
        Traceback (most recent call last):
        no_time_to_train.errors.ConfigError: shots is a number of 21 digits, expected 1 to 1000 (lower it: ...)
    """
    if value is None:
        return
    if value < lowest:
        raise ConfigError(
            f"{name} is {shown_number(value)}, expected at least {lowest}", remedy=f"set {name} to {lowest} or more"
        )
    if value > highest:
        raise ConfigError(f"{name} is {shown_number(value)}, expected {lowest} to {highest}", remedy=f"lower it: {why}")


def shown_number(value: int) -> str:
    """Return a number as a message shows it.

    Examples:
        >>> shown_number(592), shown_number(10**20)
        ('592', 'a number of 21 digits')
    """
    # Python refuses to write numbers of more than 4300 digits.
    if abs(value) < 10**_LONGEST:
        return str(value)
    digits = int(value.bit_length() * 0.30103) + 1
    return f"a number of {'more than 1000' if digits > 1000 else len(str(abs(value)))} digits"
