"""Trainings that end in a folder of weights."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.lr_scheduler import LambdaLR

from no_time_to_train.errors import ConfigError
from no_time_to_train.files import check_writable

_LOSS = "train/loss"


class EndsInFolder(LightningModule):
    """A training that writes a folder at its end, also where it goes on from a checkpoint of its last step.

    Attributes:
        output: The folder; None writes none.
    """

    output: Path | None = None
    _ended = False
    _settings: Sequence[Sequence[Mapping[str, Any]]] = ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained model without what only training needs."""

    def setup(self, stage: str) -> None:
        """Refuse an output that could not be written at the end.

        Raises:
            OutputError: It is one.
        """
        if stage == "fit" and self.output is not None:
            check_writable(self.output)

    def on_fit_start(self) -> None:
        """Keep the optimizers' settings, before a checkpoint replaces them by its own."""
        self._settings = [
            [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in one.param_groups]
            for one in self.trainer.optimizers
        ]

    def on_train_start(self) -> None:
        """Use the optimizers' settings of this run where a checkpoint has others, as its steps are this run's too."""
        for optimizer, settings in zip(self.trainer.optimizers, self._settings, strict=True):
            for group, setting in zip(optimizer.param_groups, settings, strict=True):
                group.update(setting)
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                groups = scheduler.optimizer.param_groups
                scheduler.base_lrs = [group["initial_lr"] for group in groups]
                for group, share in zip(groups, scheduler.lr_lambdas, strict=True):
                    group["lr"] = group["initial_lr"] * share(scheduler.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to replace a checkpoint by one whose weights hold NaN or Inf.

        Raises:
            ConfigError: They do.
        """
        self._check_finite(checkpoint["state_dict"])

    def on_train_end(self) -> None:
        """Write the trained model as a folder.

        Raises:
            ConfigError: The weights or the last loss are NaN or Inf.
        """
        self._ended = True
        self._check_finite(self.state_dict())
        loss = self.trainer.callback_metrics.get(_LOSS)
        if loss is not None and not bool(loss.isfinite()):
            # In float16 the weights stay as they were: steps whose gradients are not finite are skipped.
            raise self._diverged(f"{_LOSS} is {float(loss)}")
        if self.output is not None and self.trainer.is_global_zero:
            self.save(self.output)

    def on_fit_end(self) -> None:
        """Write it where whoever was killed between the last checkpoint and the end had not.

        Lightning takes a training that has done all its steps for one that never ends.
        """
        if self._ended or not self.trainer.ckpt_path:
            return
        for part in self.trainer.callbacks:  # type: ignore[attr-defined] # Lightning's Trainer does not declare it
            if isinstance(part, WeightAveraging):
                # The averages take the weights' place, as they do at the end of a training.
                part.on_train_end(self.trainer, self)
        self.on_train_end()

    def _check_finite(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                raise self._diverged(f"{name} holds NaN or Inf")

    def _diverged(self, what: str) -> ConfigError:
        return ConfigError(
            f"the training has diverged: {what} after step {self.trainer.global_step}, and is not written",
            remedy="lower the learning rate, set trainer.gradient_clip_val, or go on from an earlier checkpoint",
        )
