"""Weight files: what they are, how they are read, and how they are fetched."""

from typing import TYPE_CHECKING, Any

from no_time_to_train.weights.inspect import WeightsReport, inspect_weights

if TYPE_CHECKING:
    from no_time_to_train.weights.hub.fetch import fetch_dinov3, validate_dinov3
    from no_time_to_train.weights.hub.manifest import check_folder

__all__ = ["WeightsReport", "check_folder", "fetch_dinov3", "inspect_weights", "validate_dinov3"]


def __getattr__(name: str) -> Any:
    """Import what fetches only where it is asked for: reading a file needs no HTTP client."""
    if name in ("fetch_dinov3", "validate_dinov3"):
        from no_time_to_train.weights.hub import fetch

        return getattr(fetch, name)
    if name == "check_folder":
        from no_time_to_train.weights.hub.manifest import check_folder

        return check_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
