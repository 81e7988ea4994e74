"""Checkpoints that are whole or not there, whenever the process is killed."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then puts it there in one step.

    Lightning's own writes it to the system's folder for temporary files, and copies it where that is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, wholly or not at all."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = lambda storage, place: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            WeightsFormatError: It is damaged.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise WeightsFormatError(f"{path} is no whole checkpoint: {error}", remedy="name another one") from error
