"""Callbacks of every run of the command line: signals, one run a folder, and `config.yaml`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from no_time_to_train.batch.run_locks import sole_run
from no_time_to_train.errors import OutputError
from no_time_to_train.io.atomic import NO_ROOM, write_text_atomic
from no_time_to_train.io.process import Stopped, catch_signals
from no_time_to_train.pl_wrapper.distributed import gather_objects


class Signals(Callback):
    """Stops the run at once on a signal, with all its processes; Lightning alone would finish the batch and exit 0."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handlers, which it installs after `on_fit_start` and before these.

        Its own for SIGTERM broadcasts to the other processes, and never returns where they wait for something else.
        """
        catch_signals()

    on_sanity_check_start = on_test_start = on_predict_start = on_validation_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that Lightning has launched; SIGTERM would not reach one that waits in a collective.

        An error for lack of room that names no file, as those of TensorBoard's writer do, is given the run's folder.
        """
        if isinstance(exception, OSError) and exception.filename is None and exception.errno in NO_ROOM:
            exception.filename = trainer.log_dir or trainer.default_root_dir
        launcher = trainer.strategy.launcher
        if isinstance(exception, Stopped) and launcher is not None:
            launcher.kill(signal.SIGKILL)


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Keep TensorBoard's thread from printing a traceback: the main thread gets the error of its file too."""
    usual = threading.excepthook

    def report(failed: threading.ExceptHookArgs) -> None:
        if not (type(failed.thread).__module__.startswith("tensorboard.") and issubclass(failed.exc_type, OSError)):
            usual(failed)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = usual


class SoleRun(Callback):
    """Keeps a second run out of the run's folder, in which it would mix its files with the first one's.

    Args:
        held: Releases the folder when it is closed.
    """

    def __init__(self, held: ExitStack) -> None:
        self._held = held

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold the folder, before models are built.

        Raises:
            OutputError: Another run of the kind holds it.
        """
        folder, is_fit = Path(trainer.default_root_dir), stage == "fit"
        # Trainings may name each of their folders, and leave the root where they are started.
        elsewhere = is_fit and folder.absolute() == Path.cwd()
        if elsewhere or not getattr(pl_module, "writes_run_folder", True):
            return
        refusal = None
        if trainer.is_global_zero:
            kind = "run_lightening.py fit" if is_fit else "run_lightening.py"
            remedy = "wait until it has ended, or name another folder with --trainer.default_root_dir"
            try:
                share = getattr(getattr(trainer, "datamodule", None), "shard", None) or ""
                self._held.enter_context(sole_run(folder, kind, remedy=remedy, share=share))
            except OutputError as error:
                refusal = error.message, error.remedy
        # All processes end by themselves, rather than in waiting for the first one.
        refusal = gather_objects(refusal)[0]
        if refusal is not None:
            raise OutputError(refusal[0], remedy=refusal[1])


class SaveWholeConfig(SaveConfigCallback):
    """Writes `config.yaml` wholly or not at all, just before a run's results; bad input leaves an older one alone."""

    _folder: Path | None = None

    def __init__(self, parser: LightningArgumentParser, config: Namespace, written: Namespace, **more: Any) -> None:
        super().__init__(parser, written, **more)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: models and data may turn out to be missing."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the run's folder, which is broadcast, while every process asks for the same."""
        self._folder = None if trainer.log_dir is None else Path(trainer.log_dir)

    on_test_start = on_predict_start = on_fit_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `on_fit_start`; the validation within a training is not meant, here and below."""
        if trainer.validating:
            self.on_fit_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Write it after the first step, and before the first checkpoint: the images are there and can be read."""
        self._write(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it before the module, whose turn is next, writes the results."""
        self._write(trainer)

    on_predict_epoch_end = on_test_epoch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `on_test_epoch_end`."""
        if trainer.validating:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and not self.already_saved and self._folder is not None:
            write_text_atomic(self._folder / self.config_filename, self.parser.dump(self.config, skip_unset=False))
        self.already_saved = True
