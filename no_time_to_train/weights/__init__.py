"""Weight files: what they are, and how they are read."""
