"""The commands: `ntt` and its parts, one file each, and `run_lightening.py`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from no_time_to_train.cli.ntt import COMMANDS, fetcher_main, main

__all__ = ["COMMANDS", "fetcher_main", "main"]


def __getattr__(name: str) -> Any:
    """Import the program when it is asked for: a part of it alone needs none of the others."""
    if name in __all__:
        from no_time_to_train.cli import ntt

        return getattr(ntt, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
