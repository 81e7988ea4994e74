"""Encoders as ONNX files, through the JAX path, bound to their weights where they lie."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "export_onnx":
        from no_time_to_train.export.onnx import export_onnx

        return export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
