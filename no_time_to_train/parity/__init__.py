"""Comparison of the backends: torch, Equinox and ONNX."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("ParityReport", "compare_features"):
        from no_time_to_train.parity import compare

        return getattr(compare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
