"""ONNX export through the JAX path."""
