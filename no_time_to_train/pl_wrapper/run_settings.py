"""Checks of a run's settings after they are parsed and before anything is built from them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from no_time_to_train.configs.limits import check_number, shown_number
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.paths import check_local, in_home

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

ROOT = "${trainer.default_root_dir}"
_MOST_DEVICES = 1024
_MOST_NODES = 2**16
# Lightning divides by them.
_INTERVALS = ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")
_LIMITED = {"fit": "train", "validate": "val"}
_MATCHING_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
# What settings of other libraries, which take text for a path, are called.
_PATHS = re.compile(r"(dir|dirpath|path|file|folder|root|output)$")


def check_paths(settings: Namespace) -> None:
    """Refuse addresses such as `s3://bucket/run` where files are read or written: they would become local folders.

    Args:
        settings: Of a subcommand, as `with_root` returns them.

    Raises:
        ConfigError: A path is an address, or holds a variable.
    """
    for name, value in _leaves(settings, ""):
        if isinstance(value, Path) or (isinstance(value, str) and _PATHS.search(name)):
            check_local(value, name.replace(".init_args", ""))


def check_empty(args: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> None:
    """Refuse empty text, which parsing makes the working directory where a path is expected.

    Args:
        args: The command line.
        documents: Its configuration files.

    Raises:
        ConfigError: An option of the command line is empty, or a setting of the model or the data.
    """
    found = [option for option, value in pairwise(args) if option.startswith("--") and "=" not in option and not value]
    found += [arg.removesuffix("=") for arg in args if re.fullmatch(r"--[\w.]+=", arg)]
    for document in documents:
        for part in ("model", "data"):
            found += [name for name, value in _leaves(document.get(part), part) if value == ""]
    if found:
        raise ConfigError(
            f"{found[0].replace('.init_args', '')} is empty", remedy="set it, or leave it out; null is for nothing"
        )


def with_root(settings: Namespace) -> Namespace:
    """Return settings in which `${trainer.default_root_dir}` and `~` at the beginning of a path are filled in.

    So one setting moves all files of a run, whatever a configuration says of its parts. A shell fills in `~` where it
    begins an argument, and nowhere else.

    Args:
        settings: Of a subcommand, as they are parsed; left as they are.
    """
    root = in_home(str(settings.trainer.get("default_root_dir") or "."))

    def filled(value: Any, name: str) -> Any:
        if isinstance(value, Namespace):
            entries = {key: filled(entry, key) for key, entry in vars(value).items()}
            return Namespace(**entries)  # type: ignore[no-untyped-call] # jsonargparse's has no types
        if isinstance(value, dict):
            return {key: filled(entry, str(key)) for key, entry in value.items()}
        if isinstance(value, list):
            return [filled(entry, name) for entry in value]
        if isinstance(value, str | Path) and str(value).startswith(ROOT):
            return type(value)(root + str(value).removeprefix(ROOT))
        if isinstance(value, Path) or (isinstance(value, str) and _PATHS.search(name)):
            return type(value)(in_home(str(value)))
        return value

    found = filled(settings, "")
    assert isinstance(found, Namespace)
    return found


def check_sizes(settings: Namespace, subcommand: str) -> None:
    """Refuse numbers beyond all reason, before processes are started or anything is allocated for them.

    The classes that take a setting have narrower bounds of their own.

    Args:
        settings: Of a subcommand, as they are parsed.
        subcommand: Its name.

    Raises:
        ConfigError: There is one.
    """
    devices = settings.trainer.get("devices")
    if isinstance(devices, str) and re.fullmatch(r"-?[0-9]{1,1000}", devices):
        devices = int(devices)
    if type(devices) is int:
        check_number("trainer.devices", devices, -1, _MOST_DEVICES, "every device has a process")
    check_number("trainer.num_nodes", settings.trainer.get("num_nodes"), 1, _MOST_NODES, "every node is a machine")
    for name in _INTERVALS:
        value = settings.trainer.get(name)
        if value is not None and value == 0:
            raise ConfigError(
                f"trainer.{name} is {value}, expected more than 0", remedy="raise it, or leave it out for the default"
            )
    limit = f"limit_{_LIMITED.get(subcommand, subcommand)}_batches"
    if settings.trainer.get(limit) == 0:
        raise ConfigError(f"trainer.{limit} is 0, and {subcommand} would do nothing", remedy="leave it out")
    for name, value in _leaves(settings, ""):
        if type(value) is int and abs(value) >= 2**63:
            raise ConfigError(
                f"{name.replace('.init_args', '')} is {shown_number(value)}, expected one that has 64 bits",
                remedy="lower it",
            )


def check_precision(precision: str) -> None:
    """Refuse a precision of the trainer's that the matching baselines do not compute in.

    Args:
        precision: As the trainer names it.

    Raises:
        ConfigError: It is one.
    """
    if precision not in _MATCHING_PRECISIONS:
        raise ConfigError(
            f"trainer.precision is {precision}, expected one of {', '.join(_MATCHING_PRECISIONS)}",
            remedy="prompts and matching are computed in fp32; for faster models set model_cfg.precision to bf16",
        )


def check_limit(trainer: "Trainer", stage: str) -> None:
    """Refuse a run of no batches, which Lightning ends at once, without results and without an error.

    Args:
        trainer: Of the run.
        stage: As Lightning names it.

    Raises:
        ConfigError: The trainer's limit on batches is 0.
    """
    name = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}.get(
        stage
    )
    if name is not None and not getattr(trainer, name):
        raise ConfigError(f"trainer.{name} is 0, so that nothing would be read", remedy="leave it out")


def _leaves(settings: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted name; entries of a list have the name of the list."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _leaves(value, name)
    else:
        yield name, settings
