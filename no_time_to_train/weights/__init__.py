"""Weight files: what they are, and how they are read."""

from no_time_to_train.weights.inspect import WeightsReport, inspect_weights

__all__ = ["WeightsReport", "inspect_weights"]
