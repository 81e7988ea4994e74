"""Checks of a memory against the data that it is to be used on."""

import logging
from pathlib import Path

from no_time_to_train.errors import ConfigError
from no_time_to_train.matching import MemoryBank
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule

log = logging.getLogger(__name__)


def check_memory(memory: MemoryBank, path: Path, data: ReferenceTargetDataModule, test_mode: str) -> None:
    """Refuse settings of the data that a memory would leave without effect, or say so.

    Args:
        memory: As it was read.
        path: Its file, for messages.
        data: The settings.
        test_mode: Of the run.

    Raises:
        ConfigError: Other classes are named than the memory has.
    """
    named = data.class_names
    if named is not None and set(named) != set(memory.class_names):
        only = sorted(set(named) ^ set(memory.class_names))
        raise ConfigError(
            f"data.class_names or data.split name other classes than the memory {path} has: one of the two has "
            f"{', '.join(only[:10])}{', ...' if len(only) > 10 else ''}, the other has not",
            remedy="leave them out for the memory's classes, or fill a memory of these classes",
        )
    if test_mode == "test" and data.negative_references is not None and not memory.negative.any():
        log.warning(
            "data.negative_references are not used: test_mode test reads the memory %s, which has no negative "
            "references (fill them in with test_mode fill_memory_neg)",
            path,
        )
