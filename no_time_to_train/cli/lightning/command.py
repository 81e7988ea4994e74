"""`run_lightening.py`: everything set by YAML, through LightningCLI.

Without a subcommand it means `test`. Errors that the user can mend are one line on stderr and exit status 2; `--debug`
shows the traceback.
"""

import logging
import os
import pickle
import sys
import time
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line, run_command
from no_time_to_train.cli.lightning.arguments import (
    SUBCOMMANDS,
    check_configurations,
    check_kinds,
    check_names,
    names_subcommand,
    with_shipped_settings,
)
from no_time_to_train.cli.lightning.checkpoint_paths import read_tensor_names, require_local_path
from no_time_to_train.cli.lightning.smoke_test import use_embedded_data
from no_time_to_train.errors import ConfigError, KeyMismatchError, NoTimeToTrainError, OutputError
from no_time_to_train.io.atomic import NO_ROOM, check_writable
from no_time_to_train.io.paths import check_local, without_home
from no_time_to_train.io.process import BAD_INPUT, Stopped, is_program, parse_in_this_process, program
from no_time_to_train.io.redact import printable
from no_time_to_train.pl_wrapper.run_callbacks import SaveWholeConfig, Signals, SoleRun, quiet_writers
from no_time_to_train.pl_wrapper.run_modes import MEMORY_SUFFIX
from no_time_to_train.pl_wrapper.run_settings import check_paths, check_sizes, with_root
from no_time_to_train.training.checkpoints import AtomicCheckpointIO

# Their own processes start all others, and do not end with them.
_OTHER_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID")
_LONGEST_WAIT = 20.0  # seconds
_CORRECT = "correct it in the YAML or on the command line"


class NttLightningCLI(LightningCLI):
    """LightningCLI with `--out_path`, and with memory files as `--ckpt_path`."""

    memory_path: Path | None = None
    checkpoint: frozenset[str] | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to no class."""
        parser.add_argument(
            "--out_path", type=Path | None, default=None, help="Where test_mode fill_memory and its like write."
        )
        parser.add_argument(
            "--smoke_test",
            type=bool,
            default=False,
            help="Where no data is named, take an image of the embedded dataset, and random weights for models that "
            "have none.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and keep a memory file from Lightning, which would read it as a checkpoint of its own."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError:
            check_names(args if isinstance(args, list) else [])
            raise
        chosen = self.config[self.config.subcommand]
        notice = use_embedded_data(chosen) if chosen.get("smoke_test") else None
        if notice is not None:
            print(f"warning: {printable(without_home(notice))}", file=sys.stderr)
        seed = chosen.get("seed_everything")
        if type(seed) is int and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}", remedy="set 0 or more, below 2^32")
        if not isinstance(chosen.trainer, Namespace):
            raise ConfigError(f"trainer is {chosen.trainer!r:.60}, expected settings by name", remedy=_CORRECT)
        filled = with_root(chosen)
        given = filled.get("ckpt_path")
        if given is not None:
            check_local(given, "ckpt_path")
        if given == "last" and self.config.subcommand != "fit":
            # Lightning would go on with a model that was not trained. A training may begin with none.
            warnings.filterwarnings("error", message=".*there is no last checkpoint available")
        if self.config.subcommand != "fit" and given and Path(given).suffix == MEMORY_SUFFIX:
            self.memory_path, chosen.ckpt_path = Path(given), None
        elif given:
            require_local_path(str(given))
            if str(given) not in ("best", "last", "hpc"):
                # Lightning looks into it before anything can say what is wrong with it.
                self.checkpoint = read_tensor_names(Path(given))
        check_kinds(chosen)
        check_paths(filled)
        check_sizes(chosen, self.config.subcommand)
        if self.memory_path is not None:
            check_local(self.memory_path, "ckpt_path")
        if chosen.get("weights_only") is False:
            raise ConfigError(
                "weights_only is false, and a checkpoint that asks for more than tensors is never loaded",
                remedy="leave it out",
            )
        if "weights_only" in chosen:
            # Left open, an environment variable of torch's could take it for false.
            chosen.weights_only = True
        if "verbose" in chosen:
            # Lightning would print the metrics a second time, by data loader.
            chosen.verbose = False
        if "return_predictions" in chosen:
            # They are written; nobody takes what a command line returns.
            chosen.return_predictions = False
        # What is written of the settings keeps the name of the root, so that a rerun of it can be moved too.
        self.save_config_kwargs["written"] = chosen
        self.config[self.config.subcommand] = with_root(chosen)

    def before_instantiate_classes(self) -> None:
        """Refuse folders that cannot be written to, before anything is loaded for them.

        Raises:
            OutputError: There is one.
        """
        chosen = self.config[self.config.subcommand]
        out_path = chosen.get("out_path")
        places = {"trainer.default_root_dir": chosen.trainer.default_root_dir or Path.cwd()}
        places |= {} if out_path is None else {"--out_path": Path(out_path).parent}
        for name, place in places.items():
            try:
                check_writable(Path(place))
            except OutputError as error:
                raise OutputError(f"{name}: {error.message}", remedy=error.remedy) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer.

        Raises:
            ConfigError: Lightning does not take its settings, for which it has errors of many kinds.
        """
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}", remedy=_CORRECT) from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            # Lightning's own does not see that a file is damaged.
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def after_instantiate_classes(self) -> None:
        """Hand the command line's paths to the module, and see that data and checkpoint are for it.

        Raises:
            ConfigError: The data is for another module.
            KeyMismatchError: The checkpoint is of another module.
        """
        check_data = getattr(self.model, "check_data", None)
        if check_data is not None:
            check_data(self.datamodule)
        if self.checkpoint is not None and self.checkpoint != frozenset(self.model.state_dict()):
            raise KeyMismatchError(
                f"{self._get(self.config, 'ckpt_path')} is a checkpoint of another module than this "
                f"{type(self.model).__name__}, or of other settings",
                remedy="name another one, or set what its config.yaml says",
            )
        out_path = self._get(self.config_init, "out_path")
        for name, path in (("memory_path", self.memory_path), ("out_path", out_path)):
            if path is not None:
                if not hasattr(self.model, name):
                    option = "--ckpt_path" if name == "memory_path" else "--out_path"
                    raise ConfigError(
                        f"{option} is {path}, and {type(self.model).__name__} has no memory", remedy="leave it out"
                    )
                setattr(self.model, name, path)

    def before_fit(self) -> None:
        """Say of a module that is not trained what it is for, before Lightning misses its training_step.

        Raises:
            ConfigError: The module is not trained.
        """
        if type(self.model).training_step is LightningModule.training_step:
            raise ConfigError(f"{type(self.model).__name__} is not trained", remedy="run test, validate or predict")

    def after_fit(self) -> None:
        """Say where the training has written.

        Raises:
            ConfigError: It had no step to do.
        """
        if self.trainer.global_step == 0:
            raise ConfigError(
                "no step was trained, and nothing is written",
                remedy="raise trainer.max_steps, trainer.max_epochs or trainer.max_time",
            )
        if self.trainer.is_global_zero:
            output = getattr(self.model, "output", None)
            trained = "" if output is None else f"trained model: {output}\n"
            print(without_home(f"{trained}run: {self.trainer.default_root_dir}"))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: As after the program's name; those of the process if None.

    Returns:
        The exit status: 0, or 2 after bad input.
    """
    if args is None:
        return program(main, "run_lightening.py")
    _silence_advertising()
    try:
        status = run_command(_run, args, _one_line)
    except Stopped:
        _let_the_first_process_speak()
        raise
    if status == BAD_INPUT:
        _let_the_first_process_speak()
    return status


def _run(args: list[str]) -> None:
    parse_in_this_process()
    args = with_shipped_settings(args)
    check_configurations(args)
    given = args if names_subcommand(args) else ["test", *args]
    with warnings.catch_warnings(), quiet_writers(), ExitStack() as held:
        # They are the command line's own, with the default subcommand filled in.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        if is_program():
            warnings.showwarning = _show_warning
            # Lightning's, of what it calls in other libraries: under `python -W error` they would end every run.
            warnings.filterwarnings("ignore", message="(?!no_time_to_train)", category=DeprecationWarning)
        NttLightningCLI(
            LightningModule,
            LightningDataModule,
            trainer_class=Trainer,
            trainer_defaults={"callbacks": [Signals(), SoleRun(held)]},
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveWholeConfig,
            parser_kwargs=_parser_kwargs(),
            args=given,
        )


def _let_the_first_process_speak() -> None:
    """In a process that Lightning launched, wait for the one that launched it.

    As soon as it sees that a launched process ended badly, Lightning kills the first one, which may not have said yet
    what it lost, and would end with the signal's status.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0" or any(name in os.environ for name in _OTHER_LAUNCHERS):
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # What the others wait for will not come; closing says so.
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()
    parent, deadline = os.getppid(), time.monotonic() + _LONGEST_WAIT
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.1)


def _one_line(error: Exception) -> str | None:
    """Return what a user needs of an error in one line, or None if it is not the user's to mend."""
    if not isinstance(error, NoTimeToTrainError | OSError | pickle.UnpicklingError) and _in_checkpoint(error):
        return _of_checkpoint(error)
    if isinstance(error, ValueError) and not isinstance(error, NoTimeToTrainError):
        return in_one_line(error, _CORRECT) if "Does not validate against any" in str(error) else None
    if isinstance(error, OSError):
        return in_one_line(error, NO_ROOM.get(error.errno or 0, CHECK_PATH))
    if isinstance(error, pickle.UnpicklingError):
        # Of a checkpoint that Lightning found itself; torch's own advice is to load it all the same.
        return "a checkpoint asks for more than tensors, so it was not loaded (name one that this package wrote)"
    if not isinstance(error, NoTimeToTrainError | ArgumentError | MisconfigurationException):
        return None
    if "arguments are required" in str(error):
        return in_one_line(error, "name a YAML, such as those under pl_configs/, with --config")
    return in_one_line(
        error, _CORRECT if isinstance(error, MisconfigurationException) else "--help lists what there is"
    )


def _in_checkpoint(error: Exception) -> bool:
    """Return whether an error was raised while Lightning chose or restored a checkpoint, which may hold anything."""
    return any(
        frame.f_code.co_filename.endswith("checkpoint_connector.py")
        and frame.f_code.co_name.startswith(("_select", "_restore", "restore", "resume"))
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _of_checkpoint(error: Exception) -> str:
    """Return the error of a checkpoint that Lightning could not restore, in one line."""
    said = " ".join(str(error).split())
    if "(ckpt_path=" in said:  # there is no checkpoint of that kind
        return f"{said.partition(' No checkpoint will')[0]} (name a file with --ckpt_path)"
    return (
        "the checkpoint is damaged, or of another run than this one: "
        f"{type(error).__name__}: {said} (name another one with --ckpt_path)"
    )


def _silence_advertising() -> None:
    """Keep Lightning's tips and its own deprecations from users, who can do nothing about them."""
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_is_news)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether Lightning says more than what is in the settings or on the machine, or an advertisement."""
    message = record.getMessage()
    return not any(words in message for words in ("Tip:", "available: False", "Seed set to", "was configured so"))


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """Print a warning in one line, without the source line that gave it."""
    print(f"warning: {printable(without_home(' '.join(str(message).split())))}", file=sys.stderr)


def _parser_kwargs() -> dict[str, Any]:
    kwargs: dict[str, Any] = {"exit_on_error": False}
    return {**kwargs, **{subcommand: kwargs for subcommand in SUBCOMMANDS}}
