"""Plain data: the encoders there are, the typed settings of a run, and the limits of numbers."""
