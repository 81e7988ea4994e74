"""Parity of the live encoder with its Equinox and ONNX forms, after every validation and every export."""

import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.encoders.live_weights import find_live_encoder, save_encoder_snapshot, select_encoder_tensors
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError, NoTimeToTrainError, ParityError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.verify import natural_noise, normalised
from no_time_to_train.jax_models.load import EqxEncoder, load_eqx_encoder
from no_time_to_train.parity.compare import ParityReport, compare_features
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.training.onnx_export import OnnxExportCallback

Backend = Literal["onnx", "eqx"]
_BACKENDS: tuple[Backend, ...] = ("onnx", "eqx")


class FeatureParityCallback(Callback):
    """Compares the live weights in torch with their ONNX and Equinox forms after a validation or test, and logs it.

    `parity/torch-onnx/cls_cosine`, `parity/torch-onnx/max_abs` and so on. The newest export of `OnnxExportCallback` is
    taken if it is of this very step; else the live weights are exported to a temporary folder. An export that no
    validation has seen is compared before the next step, for which one that is under way is waited for. Random state,
    mode, gradients and precision of the module are left as they are. The first process compares alone, while the others
    wait no longer than the next time that processes meet.

    Args:
        every_n_validations: Compare after every n-th.
        backends: Which forms to compare with.
        num_samples: Images of the validation's first batch; noise with the statistics of photographs where the batch
            holds no images.
        tolerance: See `compare_features`.
        on_failure: Warn, and name the first stage that drifts; end the run with an error that does; or warn and stop
            the training as `EarlyStopping` does. Of several processes all do so, after a validation.

    Raises:
        ConfigError: A setting that makes no sense.

    Attributes:
        report: Of the last comparison; None before the first.
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        backends: Sequence[Backend] = _BACKENDS,
        num_samples: int = 2,
        tolerance: float | None = None,
        on_failure: Literal["warn", "raise", "stop"] = "warn",
    ) -> None:
        super().__init__()
        for name, value in (("every_n_validations", every_n_validations), ("num_samples", num_samples)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1", remedy="correct it in the YAML")
        if not backends or set(backends) - set(_BACKENDS):
            raise ConfigError(f"backends are {list(backends)}, expected some of onnx, eqx", remedy="correct the YAML")
        self.every_n_validations = every_n_validations
        self.backends = tuple(backends)
        self.num_samples = num_samples
        self.tolerance = tolerance
        self.on_failure = on_failure
        self.report: ParityReport | None = None
        self._validations = 0
        self._num_compared = 0
        self._failure: str | None = None
        self._images: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Remember how many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = int(state_dict["validations"])

    # Lightning's hooks ----------------------------------------------------------------------------------------------

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Keep some images of the first batch."""
        if batch_idx == 0:
            images = _images_in(batch)
            self._images = None if images is None else images[: self.num_samples].detach().clone()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Keep some images of the first batch."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, *rest)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and log."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            for name, value in self._check(trainer, pl_module).items():
                pl_module.log(name, value, rank_zero_only=True)
            self._act(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and log."""
        for name, value in self._check(trainer, pl_module).items():
            pl_module.log(name, value, rank_zero_only=True)
        self._act(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compare what was exported since, before the weights change."""
        self._check_export(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what was exported since."""
        self._check_export(trainer, pl_module)

    # Comparing ------------------------------------------------------------------------------------------------------

    def _check_export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "onnx" not in self.backends or _num_begun(trainer) == self._num_compared:
            return
        step, self._num_compared = trainer.global_step, _num_begun(trainer)
        for callback in _exporting(trainer):
            callback.wait()
        if _newest_export(_exporting(trainer), step) is None:
            return
        values = self._check(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        if trainer.world_size == 1:
            self._act(trainer)
        elif self._failure is not None:
            rank_zero_warn(self._failure)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Compare, keep what failed, and return what is to be logged: nothing but in the first process."""
        if not trainer.is_global_zero:
            return {}
        try:
            self.report = self._compare(trainer, pl_module)
        except NoTimeToTrainError as error:
            if self.on_failure != "warn" or isinstance(error, ConfigError):
                raise
            rank_zero_warn(f"at step {trainer.global_step} nothing could be compared: {error}")
            return {}
        values = {}
        for pair in self.report.pairs:
            values[f"parity/{pair.pair}/cls_cosine"] = pair.cls.least_cosine
            values[f"parity/{pair.pair}/patch_cosine"] = pair.patches.least_cosine
            values[f"parity/{pair.pair}/max_abs"] = pair.max_abs
        if not self.report.ok:
            self._failure = f"at step {trainer.global_step} {self.report}"
        return values

    def _act(self, trainer: Trainer) -> None:
        """Do what a failure demands, in all processes alike."""
        failure, self._failure = self._failure, None
        failed = failure is not None
        if trainer.world_size > 1 and self.on_failure != "warn":
            failed = bool(trainer.strategy.reduce_boolean_decision(failed, all=False))
        if not failed:
            return
        text = failure or f"at step {trainer.global_step} the first process found that backends drift apart"
        if self.on_failure == "raise":
            raise ParityError(text, remedy="ntt compare --block-debug; on_failure: warn lets the training go on")
        if failure is not None:
            rank_zero_warn(failure)
        if self.on_failure == "stop":
            trainer.should_stop = True

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> ParityReport:
        live = find_live_encoder(pl_module)
        if live is None:
            raise ConfigError(
                f"{type(pl_module).__name__} holds no DINOv3 model that could be compared",
                remedy="leave FeatureParityCallback out of its callbacks",
            )
        exporting = _exporting(trainer)
        for callback in exporting:  # while it traces, jax2onnx changes what JAX does in other threads too
            callback.wait()
        with tempfile.TemporaryDirectory() as temporary:
            # Outside of a fit the module may hold any weights at the step of the last one.
            fitting = trainer.state.fn == TrainerFn.FITTING and "onnx" in self.backends
            newest = _newest_export(exporting, trainer.global_step) if fitting else None
            # A model of its own: the module's is left alone, whatever its mode and hooks. An export has the weights
            # of its checkpoint, which may be averages of the live ones.
            folder, state = Path(temporary) / "live", None
            if newest is not None and newest[1].is_file():
                state = _state_in(trainer, newest[1])
                # Without it there is nothing that the export is known to have been made of.
                newest = newest if state is not None else None
            save_encoder_snapshot(live, folder, select_encoder_tensors(state, pl_module, live))
            reference = build_encoder_from_checkpoint(folder)
            pixels = self._pixels(reference.config)
            size = None if newest is None else read_onnx_file(newest[0]).image_size
            if size is not None:
                pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
            others: list[Path | EqxEncoder] = []
            if "onnx" in self.backends:
                self._num_compared = _num_begun(trainer)
                others.append(export_onnx(folder, verify=False) if newest is None else newest[0])
            if "eqx" in self.backends:
                others.append(load_eqx_encoder(folder))

            def compared(*, blocks: bool) -> ParityReport:
                return compare_features(
                    reference, *others, pixel_values=pixels, tolerance=self.tolerance, blocks=blocks
                )

            report = compared(blocks=False)
            return report if report.ok else compared(blocks=True)

    def _pixels(self, config: EncoderConfig) -> Tensor:
        """Return images in [0, 1] or raw bytes normalised, cut to whole patches; other floats as they are."""
        patch = config.patch_size
        if self._images is None or min(self._images.shape[-2:]) < patch:
            images = torch.from_numpy(natural_noise((self.num_samples, 3, 4 * patch, 6 * patch), seed=0))
        else:
            rows, columns = grid_size(self._images.shape[-2], self._images.shape[-1], config)
            images = self._images[..., : rows * patch, : columns * patch].cpu()
        if not images.is_floating_point():
            images = images.float() / 255
        images = images.float()
        if images.min() < 0 or images.max() > 1:  # normalised already
            return images
        return torch.from_numpy(normalised(images.numpy(), config))


def _state_in(trainer: Trainer, checkpoint: Path) -> Mapping[str, Any] | None:
    """Read the weights of a checkpoint; None where another's module keeps in it what may not be unpickled."""
    try:
        loaded = trainer.strategy.checkpoint_io.load_checkpoint(checkpoint, weights_only=True)
    except (pickle.UnpicklingError, NoTimeToTrainError):
        return None
    state: Mapping[str, Any] = loaded["state_dict"]
    return state


def _exporting(trainer: Trainer) -> list[OnnxExportCallback]:
    return [part for part in getattr(trainer, "callbacks", []) if isinstance(part, OnnxExportCallback)]


def _num_begun(trainer: Trainer) -> int:
    return sum(callback.num_begun for callback in _exporting(trainer))


def _newest_export(callbacks: Sequence[OnnxExportCallback], step: int) -> tuple[Path, Path] | None:
    """Return the newest export and its checkpoint if it is of the present step."""
    for callback in callbacks:
        for folder in reversed(callback.finished()):
            if folder.is_dir() and read_onnx_file(folder).metadata.get("global_step") == str(step):
                return folder, callback.exports[folder]
    return None


def _images_in(batch: Any) -> Tensor | None:
    """Find images (B, 3, H, W) in a batch of any kind."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim == 4 and batch.shape[1] == 3 and batch.numel() else None
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    for part in parts:
        images = _images_in(part)
        if images is not None:
            return images
    return None
