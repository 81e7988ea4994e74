"""Matching keeps its own precision."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_mkldnn: Any = torch.backends.mkldnn  # torch does not say what it has
_BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, _mkldnn.matmul)
_FULL = {"none", "ieee"}
# The settings belong to the process: the first thread that comes changes them, and the last that goes restores them.
_lock = threading.Lock()
_inside = 0
_before: list[str] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the inputs' own precision: cosines in bfloat16 keep three digits.

    Neither a trainer's autocast nor `torch.set_float32_matmul_precision`, by which float32 matrices are multiplied in
    TF32 or bfloat16, has an effect inside.
    """
    _enter()
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = [backend.fp32_precision for backend in _BACKENDS]
            for backend, before in zip(_BACKENDS, _before, strict=True):
                if before not in _FULL:
                    backend.fp32_precision = "ieee"
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            for backend, before in zip(_BACKENDS, _before, strict=True):
                if before not in _FULL:
                    backend.fp32_precision = before
