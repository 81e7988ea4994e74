"""Checkpoints that are whole or not there, whenever the process is killed."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from no_time_to_train.files import atomic_path
from no_time_to_train.weights.files import unpickled

_STARTED = time.time()
# What `files.atomic_path` and `files.atomic_folder` call a checkpoint and its export while they are written.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.ckpt|\..+-onnx(-\w+)?\.(\w{8}|[0-9a-f]{12})")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then puts it there in one step.

    Lightning's own writes it to the system's folder for temporary files, and copies it where that is on another disk.
    What a killed run left half-written is removed when the next one writes its first checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tidied: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, wholly or not at all."""
        target = Path(path)
        self._tidy(target.parent)
        with atomic_path(target) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint into the CPU's memory; what it asks for beside tensors and plain values is not loaded.

        Args:
            path: The file.
            map_location: Not used, as Lightning moves everything itself.
            weights_only: Not used, as nothing else is read.

        Raises:
            WeightsFormatError: It is damaged, or asks for more.
        """
        loaded: dict[str, Any] = unpickled(Path(path))
        return loaded

    def _tidy(self, folder: Path) -> None:
        if folder in self._tidied or not folder.is_dir():
            return
        self._tidied.add(folder)
        for path in folder.iterdir():
            if _UNFINISHED.fullmatch(path.name) and path.stat().st_mtime < _STARTED:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
