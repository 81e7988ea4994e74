"""Whether the backends say the same: torch, Equinox and ONNX."""
