"""What runs without torch: ONNX Runtime."""
