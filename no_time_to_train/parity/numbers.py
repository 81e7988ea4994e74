"""Numbers of any size, in few signs."""


def small_number(value: float | None) -> str:
    """Write a number that may be of any size; nothing for none.

    Example:
        >>> small_number(0.00012345), small_number(12.345), small_number(0.0), small_number(None)
        ('1.2e-04', '12', '0', '')
    """
    return "" if value is None else "0" if value == 0 else f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.1e}"
