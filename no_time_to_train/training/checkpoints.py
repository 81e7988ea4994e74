"""Checkpoints that are whole or not there, whenever the process is killed."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.weights.formats.torch_pickle import LIGHTNING_KEY
from no_time_to_train.weights.load import safe_torch_load

_KINDS = {"state_dict": dict, "epoch": int, "global_step": int, LIGHTNING_KEY: str}
_ANOTHER = "name another one with --ckpt_path"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then puts it there in one step.

    Lightning's own writes it to the system's folder for temporary files, and copies it where that is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, wholly or not at all.

        Raises:
            OutputError: It cannot be written, for instance because the disk is full.
        """
        # Of a path, torch's writer does not say why it cannot be written to.
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint into the CPU's memory; what it asks for beside tensors and plain values is not loaded.

        Args:
            path: The file.
            map_location: Not used, as Lightning moves everything itself.
            weights_only: Not used, as nothing else is read.

        Raises:
            WeightsFormatError: It is damaged, asks for more, or is not a checkpoint of a training.
        """
        try:
            loaded = safe_torch_load(Path(path))
        except WeightsFormatError as error:
            raise type(error)(error.message, remedy=_ANOTHER) from error
        if not isinstance(loaded, dict) or not all(isinstance(loaded.get(key), kind) for key, kind in _KINDS.items()):
            raise WeightsFormatError(
                f"{path} is not a checkpoint of a training: expected {', '.join(_KINDS)}", remedy=_ANOTHER
            )
        return loaded
