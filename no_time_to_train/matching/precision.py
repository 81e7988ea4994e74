"""Matching keeps its own precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the inputs' own precision, also under a trainer's autocast: cosines in bf16 keep three digits."""
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield
