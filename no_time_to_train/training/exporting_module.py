"""Trainings that end in a folder of weights."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from no_time_to_train.errors import ConfigError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.io.atomic import check_writable

_LOSS = "train/loss"


class ExportsHfFolder(LightningModule):
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
        """Use the optimizers' settings of this run where a checkpoint has others, as its steps are this run's too.

        Raises:
            ShapeMismatchError: The state in a checkpoint is of a model of another size.
            WeightsFormatError: It holds NaN or Inf.
        """
        for optimizer in self.trainer.optimizers:
            for part in getattr(optimizer, "parts", (optimizer,)):  # of `MuonWithAdamW`
                _check_state(part)
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit this module, or that a training cannot go on from.

        Raises:
            ShapeMismatchError: It is of a model of another size.
            WeightsFormatError: Its weights hold NaN or Inf, or a training is to go on from weights alone.
        """
        state, own = checkpoint["state_dict"], self.state_dict()
        for name, value in state.items():
            expected = own.get(name)
            if expected is not None and getattr(value, "shape", None) != expected.shape:
                raise ShapeMismatchError(
                    f"{name} in the checkpoint has the shape {list(getattr(value, 'shape', []))}, expected "
                    f"{list(expected.shape)}",
                    remedy="name another one, or set what its config.yaml says",
                )
        damaged = _not_finite(state)
        if damaged is not None:
            raise WeightsFormatError(f"{damaged} in the checkpoint holds NaN or Inf", remedy="name an earlier one")
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        whole = checkpoint.get("optimizer_states") and {"lr_schedulers", "loops"} <= checkpoint.keys()
        if fitting and not whole:
            raise WeightsFormatError(
                "the checkpoint holds only weights, and a training goes on from the state of its optimizer too",
                remedy="name one that was saved with save_weights_only: false",
            )

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
        name = _not_finite(state)
        if name is not None:
            raise self._diverged(f"{name} holds NaN or Inf")

    def _diverged(self, what: str) -> ConfigError:
        return ConfigError(
            f"the training has diverged: {what} after step {self.trainer.global_step}, and is not written",
            remedy="lower the learning rate, set trainer.gradient_clip_val, or go on from an earlier checkpoint",
        )


def _check_state(optimizer: Optimizer) -> None:
    """Refuse the state of an optimizer that is not one of its parameters; torch takes it as it is.

    Raises:
        ShapeMismatchError: A tensor has neither one element nor its parameter's shape.
        WeightsFormatError: One holds NaN or Inf.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                raise ShapeMismatchError(
                    f"{name} of the optimizer in the checkpoint has the shape {list(value.shape)}, expected "
                    f"{list(parameter.shape)}",
                    remedy="name another one",
                )
        damaged = _not_finite(state)
        if damaged is not None:
            raise WeightsFormatError(
                f"{damaged} of the optimizer in the checkpoint holds NaN or Inf", remedy="name an earlier one"
            )


def _not_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds NaN or Inf."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None
