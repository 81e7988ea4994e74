"""A progress bar that says what a user wants to know of a training: images a second, and the time that is left."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

# The weight of the last step in the mean of the steps' durations.
_LAST = 0.05


class ThroughputBar(TQDMProgressBar):
    """Lightning's bar with images a second, over all processes, and the time left until the last step."""

    def __init__(self, refresh_rate: int = 10, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, process_position=process_position, leave=leave)
        self._last: float | None = None
        self._seconds: float | None = None
        self._images = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validations out of the account."""
        super().on_validation_start(trainer, pl_module)
        self._last = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time since the last step: reading images and the callbacks count too."""
        now = time.perf_counter()
        if self._last is not None:
            seconds = now - self._last
            self._seconds = seconds if self._seconds is None else (1 - _LAST) * self._seconds + _LAST * seconds
        self._last = now
        self._images = len(batch[0]) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        if self._seconds:
            metrics["images/s"] = f"{self._images / self._seconds:.0f}"
            batches = trainer.accumulate_grad_batches
            steps = trainer.estimated_stepping_batches
            if steps != float("inf"):
                metrics["left"] = _in_words(max(0.0, steps - trainer.global_step) * batches * self._seconds)
        return metrics


def _in_words(seconds: float) -> str:
    """Write a time span.

    Examples:
        >>> _in_words(59.6), _in_words(3700)
        ('1:00', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
