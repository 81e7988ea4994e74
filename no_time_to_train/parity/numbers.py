"""Numbers of any size, in few signs, and as JSON takes them."""

import math
from collections.abc import Mapping
from typing import Any


def small_number(value: float | None) -> str:
    """Write a number that may be of any size; nothing for none.

    Examples:
        >>> small_number(0.00012345), small_number(12.345), small_number(0.0), small_number(None)
        ('1.2e-04', '12', '0', '')
    """
    return "" if value is None else "0" if value == 0 else f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.1e}"


def finite(value: Any) -> Any:
    """Return lists and mappings with None for the numbers that JSON does not know.

    Examples:
        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
