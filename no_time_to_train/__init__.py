"""Instance masks from a few reference images, without training."""

import os
from typing import TYPE_CHECKING, Any

from no_time_to_train.io import old_import_paths

if TYPE_CHECKING:
    from no_time_to_train.segmenter import FoundInstances, Prediction, Segmenter

# ONNX Runtime's official builds report their use to Microsoft, and keep a number of this machine in the home folder,
# from the moment that they are imported. A user who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

old_import_paths.install()

__version__ = "0.1.0"

__all__ = ["FoundInstances", "Prediction", "Segmenter"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: NumPy and ONNX Runtime take most of a second."""
    if name in __all__:
        from no_time_to_train import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
