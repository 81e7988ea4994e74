"""Correctness and speed on a GPU, in one bounded run."""
