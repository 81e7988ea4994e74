"""Literal key maps: the names of tensors in each kind of file, and transformers' names."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Give the key maps of DINOv3 and DINOv2, which this was the module of before it was a folder."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from no_time_to_train.weights.layouts import dino

    return getattr(dino, name)
