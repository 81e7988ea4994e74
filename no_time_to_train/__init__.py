"""Instance masks from a few reference images, without training."""

__version__ = "0.1.0"
