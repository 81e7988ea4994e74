"""An ONNX file beside every checkpoint."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.encoders.live_weights import (
    EncoderSnapshot,
    find_live_encoder,
    save_encoder_snapshot,
    select_encoder_tensors,
)
from no_time_to_train.errors import ConfigError, ExportError, NoTimeToTrainError, OutputError
from no_time_to_train.export.graph_file import ExportOptions, Precision
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.places import is_of_a_checkpoint
from no_time_to_train.io.atomic import atomic_folder, remove_folder
from no_time_to_train.weights.license import NOTICE_FILE

_SUFFIX = "-onnx"
_LIVE = "live"
_MOVE = "move it away, or set dirpath"


class OnnxExportCallback(Callback):
    """Exports the encoder's live weights whenever a checkpoint is written: `last.ckpt` gets `last-onnx/` beside it.

    Training goes on as if nothing had happened: mode, gradients, random state and devices are left alone. The exports
    of checkpoints that Lightning deletes, by `save_top_k` for instance, are deleted too. The first process exports
    alone. Not watched are sharded strategies, which write checkpoints themselves; `save_last: link` writes none.

    Args:
        dirpath: Folder of the exports; beside each checkpoint if None.
        every_n_checkpoints: Export every n-th checkpoint that is written.
        keep_last: Keep the newest so many exports; all if None.
        image_size: Side, or height and width, in pixels; or any.
        batch_size: Images at a time, or any number.
        opset: Of ONNX, see `export_onnx`.
        precision: Of the weights, see `export_onnx`.
        asynchronous: Export on a thread while training goes on; the weights are copied before. Whatever is still under
            way when the run ends is waited for.
        on_error: What a failed export does: warn, or end the run.
        export_on_test_end: Export when a test run ends too: beside the memory file that it wrote, or into its output
            folder.

    Raises:
        ConfigError: A setting that makes no sense, or a module without an encoder that can be exported.

    Attributes:
        exports: The folders that were written and not deleted since, with the checkpoint of each, oldest first.
        num_begun: How many exports this run began.
    """

    def __init__(
        self,
        dirpath: Path | str | None = None,
        every_n_checkpoints: int = 1,
        keep_last: int | None = 3,
        image_size: int | tuple[int, int] | Literal["dynamic"] = "dynamic",
        batch_size: int | Literal["dynamic"] = "dynamic",
        opset: int = 23,
        precision: Precision = "fp32",
        asynchronous: bool = False,
        on_error: Literal["warn", "raise"] = "warn",
        export_on_test_end: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_checkpoints", every_n_checkpoints), ("keep_last", keep_last)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1", remedy="correct it in the YAML")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        ExportOptions(
            image_size=None if size == "dynamic" else size,
            batch_size=None if batch_size == "dynamic" else batch_size,
            opset=opset,
            precision=precision,
        )
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.every_n_checkpoints = every_n_checkpoints
        self.keep_last = keep_last
        self.on_error = on_error
        self.export_on_test_end = export_on_test_end
        self.exports: dict[Path, Path] = {}
        self.num_begun = 0
        self._restored: dict[Path, Path] = {}
        self._options: dict[str, Any] = {
            "image_size": size,
            "batch_size": batch_size,
            "opset": opset,
            "precision": precision,
        }
        self._seen = 0
        self._asynchronous = asynchronous
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: list[Future[None]] = []

    # Lightning's hooks ----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch what the trainer writes and deletes."""
        if stage != "fit":
            return

        def saved(path: Path, state: Mapping[str, Any] | None) -> None:
            self._seen += 1
            if self._seen % self.every_n_checkpoints == 0:
                self._export(trainer, pl_module, path, self._folder(path), state)

        self._stop_watching(trainer)  # after a run that ended in an exception
        strategy = trainer.strategy
        strategy.checkpoint_io = _WatchedIO(self, strategy.checkpoint_io, saved, self._checkpoint_removed)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without an encoder, or a size that it does not take, before it is trained."""
        live, size = _encoder_in(pl_module), self._options["image_size"]
        if live.entry is not None and size != "dynamic":
            check_image_size(size[0], size[1], live.entry)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the encoder that was tested."""
        if not self.export_on_test_end or not trainer.is_global_zero:
            return
        memory: Path | None = getattr(pl_module, "out_path", None)
        folder = Path(getattr(pl_module, "output_dir", None) or trainer.default_root_dir)
        beside = (folder / "encoder") if memory is None else memory.with_suffix("")
        self._export(trainer, pl_module, beside, self._folder(beside))
        self.wait()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for what is under way, and stop watching."""
        self._stop_watching(trainer)
        try:
            self.wait()
        finally:
            self._end_pool()

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _stop_watching(self, trainer: Trainer) -> None:
        watched = trainer.strategy.checkpoint_io
        if isinstance(watched, _WatchedIO) and watched.owner is self:
            trainer.strategy.checkpoint_io = watched.inner

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching a run that fails; Lightning calls no `teardown` then."""
        self._stop_watching(trainer)
        self._end_pool()

    def state_dict(self) -> dict[str, Any]:
        """Remember the exports, so that a run that goes on deletes them in their turn."""
        return {"exports": {str(folder): str(path) for folder, path in self.exports.items()}, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a run was stopped."""
        self._seen = int(state_dict["seen"])
        self._restored = {Path(folder): Path(path) for folder, path in state_dict["exports"].items()}

    def finished(self) -> list[Path]:
        """Return the exports that are whole, oldest first."""
        return [] if self._under_way else list(self.exports)

    @property
    def state_key(self) -> str:
        """Tell callbacks of other settings apart, so that one run can have several."""
        return self._generate_state_key(dirpath=str(self.dirpath), **self._options)

    def _folder(self, checkpoint: Path) -> Path:
        precision = self._options["precision"]
        suffix = _SUFFIX if precision == "fp32" else f"{_SUFFIX}-{precision}"
        return (self.dirpath or checkpoint.parent) / f"{checkpoint.name.removesuffix('.ckpt')}{suffix}"

    # Exporting ------------------------------------------------------------------------------------------------------

    def _export(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: Path,
        folder: Path,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Export the weights of a checkpoint, which may be averages of the live ones; the live ones without `state`."""
        self._raise_failures()
        self.num_begun += 1
        # A run that goes on in another folder leaves alone what it came from.
        here = {other: path for other, path in self._restored.items() if other.parent == folder.parent}
        self._restored = {other: path for other, path in self._restored.items() if other not in here}
        self.exports = here | self.exports
        self.exports.pop(folder, None)
        self.exports[folder] = checkpoint
        metadata = _metadata(trainer, checkpoint)
        try:
            with ExitStack() as stack:
                live = _encoder_in(pl_module)
                if folder.exists() and not is_of_a_checkpoint(folder, checkpoint.name):
                    raise OutputError(
                        f"{folder} is there already, and is not an export of {checkpoint.name}", remedy=_MOVE
                    )
                staging = stack.enter_context(atomic_folder(folder))
                save_encoder_snapshot(live, staging / _LIVE, select_encoder_tensors(state, pl_module, live))
                notice = checkpoint.parent / NOTICE_FILE
                if notice.is_file():
                    shutil.copyfile(notice, staging / _LIVE / NOTICE_FILE)
                if not self._asynchronous:
                    self._convert(live.name, staging, metadata)
                else:
                    self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="onnx-export")
                    job = stack.pop_all()
                    future = self._pool.submit(self._convert_later, job, folder, live.name, staging, metadata)
                    self._under_way.append(future)
        except Exception as error:
            self._failed(folder, error)
        self._delete_old()

    def _convert_later(
        self, job: ExitStack, folder: Path, name: str | None, staging: Path, metadata: dict[str, str]
    ) -> None:
        try:
            with job:
                self._convert(name, staging, metadata)
        except Exception as error:
            self._failed(folder, error)

    def _convert(self, name: str | None, staging: Path, metadata: dict[str, str]) -> None:
        """Export the live weights within the folder that is being made, and leave nothing else there."""
        live = staging / _LIVE
        output = None if self._options["precision"] == "fp32" else staging / "smaller"
        source, weights = (live, None) if name is None else (name, live)
        made = export_onnx(source, weights, output, metadata=metadata, **self._options)
        for path in made.iterdir():
            path.replace(staging / path.name)
        for folder in {live, made}:
            shutil.rmtree(folder)

    def _failed(self, folder: Path, error: Exception) -> None:
        checkpoint = self.exports.pop(folder, None)
        if checkpoint is not None:  # an older one of that name is not this checkpoint's
            _remove(folder, checkpoint)
        text = f"no ONNX export at {folder}: {type(error).__name__}: {error}"
        if self.on_error == "warn":
            rank_zero_warn(text)
        elif isinstance(error, NoTimeToTrainError):
            raise error
        else:
            raise ExportError(text, remedy="on_error: warn lets the training go on") from error

    def _checkpoint_removed(self, path: Path) -> None:
        for folder in [folder for folder, checkpoint in self.exports.items() if checkpoint == path]:
            self._delete(folder)

    def _delete_old(self) -> None:
        surplus = 0 if self.keep_last is None else max(0, len(self.exports) - self.keep_last)
        for folder in list(self.exports)[:surplus]:
            self._delete(folder)

    def _delete(self, folder: Path) -> None:
        checkpoint = self.exports.pop(folder)
        if self._pool is None:
            _remove(folder, checkpoint)
        else:  # after what is under way
            self._under_way.append(self._pool.submit(_remove, folder, checkpoint))

    def wait(self) -> None:
        """Wait until nothing is under way.

        Raises:
            NoTimeToTrainError: What failed meanwhile, where `on_error` is `raise`.
        """
        for future in self._under_way:
            future.exception()
        self._raise_failures()

    def _raise_failures(self) -> None:
        done = [future for future in self._under_way if future.done()]
        self._under_way = [future for future in self._under_way if not future.done()]
        for future in done:
            future.result()


class _WatchedIO(CheckpointIO):
    """Writes and deletes checkpoints as another one does, and tells of both."""

    def __init__(
        self,
        owner: object,
        inner: CheckpointIO,
        saved: Callable[[Path, Mapping[str, Any] | None], None],
        removed: Callable[[Path], None],
    ) -> None:
        self.owner, self.inner, self._saved, self._removed = owner, inner, saved, removed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.inner.save_checkpoint(checkpoint, path, storage_options)
        self._saved(Path(path), checkpoint.get("state_dict"))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.inner.load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        self.inner.remove_checkpoint(path)
        self._removed(Path(path))

    def teardown(self) -> None:
        self.inner.teardown()


def _remove(folder: Path, checkpoint: Path) -> None:
    if is_of_a_checkpoint(folder, checkpoint.name):
        remove_folder(folder)


def _metadata(trainer: Trainer, checkpoint: Path) -> dict[str, str]:
    metrics = {
        name: float(value) for name, value in trainer.callback_metrics.items() if torch.as_tensor(value).numel() == 1
    }
    return {
        "checkpoint": checkpoint.name,
        "epoch": str(trainer.current_epoch),
        "global_step": str(trainer.global_step),
        "metrics": json.dumps(metrics),
    }


def _encoder_in(pl_module: LightningModule) -> EncoderSnapshot:
    live = find_live_encoder(pl_module)
    if live is None:
        raise ConfigError(
            f"{type(pl_module).__name__} holds no DINOv3 model that could be exported",
            remedy="leave OnnxExportCallback out of its callbacks",
        )
    return live
