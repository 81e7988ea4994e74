"""Checks of a run's settings after they are parsed and before anything is built from them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from no_time_to_train.files import check_local

# What settings of other libraries, which take text for a path, are called.
_PATHS = re.compile(r"(dir|dirpath|path|file|folder|root|output)$")


def check_paths(settings: Namespace) -> None:
    """Refuse addresses such as `s3://bucket/run` where files are read or written: they would become local folders.

    Args:
        settings: Of a subcommand, as they are parsed.

    Raises:
        ConfigError: A path is an address.
    """
    for name, value in _leaves(settings, ""):
        if isinstance(value, Path) or (isinstance(value, str) and _PATHS.search(name)):
            check_local(value, name.replace(".init_args", ""))


def _leaves(settings: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted name; entries of a list have the name of the list."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _leaves(value, name)
    else:
        yield name, settings
