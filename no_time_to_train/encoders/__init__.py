"""Images to patch features: the encoders in torch and ONNX behind one interface, and what prepares images for them."""
