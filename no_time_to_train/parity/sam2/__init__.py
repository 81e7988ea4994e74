"""Comparison of SAM2's backends: embeddings, masks, and the stages on the way to them."""
