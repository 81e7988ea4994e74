"""`run_lightening.py`, and `ntt test`, `ntt fit`: everything set by YAML, through LightningCLI."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from no_time_to_train.cli.lightning.command import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    """Import torch and Lightning when they are asked for: what the arguments say alone needs neither."""
    if name in __all__:
        from no_time_to_train.cli.lightning.command import main

        return main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
