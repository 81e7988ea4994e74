"""SAM2 as ONNX files that transformers.js opens."""
