"""Encoders, SAM2 and the two matching baselines."""
