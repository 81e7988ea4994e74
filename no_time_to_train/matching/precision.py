"""Matching keeps its own precision."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    _enter()
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        _leave()


@contextmanager
def without_gradients() -> Iterator[None]:
    """Compute without gradients, where torch computes."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.inference_mode():
        yield


@contextmanager
def inference() -> Iterator[None]:
    """Compute in the inputs' own precision, and without gradients."""
    with without_gradients(), full_precision():
        yield


def backends() -> tuple[Any, ...]:
    """Return the parts of torch that may multiply float32 matrices in less than float32."""
    import torch

    mkldnn: Any = torch.backends.mkldnn  # torch does not declare its attributes
    return torch.backends.cuda.matmul, mkldnn.matmul


def _enter() -> None:
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = [backend.fp32_precision for backend in backends()]
            for backend, before in zip(backends(), _before, strict=True):
                if before not in _FULL:
                    backend.fp32_precision = "ieee"
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            for backend, before in zip(backends(), _before, strict=True):
                if before not in _FULL:
                    backend.fp32_precision = before
