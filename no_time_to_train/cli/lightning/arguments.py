"""The arguments of `run_lightening.py`, as far as they can be checked before Lightning is imported, and their names.

Importing torch and Lightning takes seconds, so that a mistake in a YAML, and `--help`, are answered before it.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line, run_command
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.configs.shipped import find_settings
from no_time_to_train.errors import ConfigError, NoTimeToTrainError
from no_time_to_train.io.messages import nearest
from no_time_to_train.io.strict_yaml import read_yaml
from no_time_to_train.pl_wrapper.run_settings import check_empty

_DATA_MODULES = (
    "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule",
    "no_time_to_train.pl_wrapper.shapes_datamodule.ShapesDataModule",
    "no_time_to_train.training.distill.datamodule.ViewsDataModule",
    "no_time_to_train.training.scenes_datamodule.TrainingScenesDataModule",
)
_OWN = "no_time_to_train."
_PARTS = ("model", "data", "trainer")
# What else a run takes, and what belongs to jsonargparse.
_OTHERS = ("seed_everything", "smoke_test", "out_path", "ckpt_path", "weights_only", "verbose", "return_predictions")
SUBCOMMANDS = ("fit", "validate", "test", "predict")
_FOREIGN = ("config", "c", "help", "h", "print_config", "optimizer", "lr_scheduler")


HELP = """usage: run_lightening.py [SUBCOMMAND] -c YAML [-c YAML ...] [--SETTING VALUE ...]

Run what a YAML describes: the matching of references and targets, or a training. pl_configs/ has YAMLs for all of it.

subcommands:
  test        (default) match targets with references, write the results, compute average precision
  validate    do the same in Lightning's validation loop
  predict     do the same in Lightning's prediction loop, and log no metrics
  fit         train a model; see pl_configs/distill_dinov3_small.yaml

options:
  -c, --config YAML        read settings; a later file overrides an earlier one
  --SETTING VALUE          set any setting of the YAML by its dotted name, such as --data.max_targets 10
  --ckpt_path FILE         match with a memory file (.safetensors), or continue a training from a checkpoint
  --out_path FILE          write the memory here, in test_mode fill_memory, fill_memory_neg, postprocess_memory
  --print_config           print the merged configuration and exit
  --debug                  show the traceback of an error
  -h, --help               show this help and exit

"run_lightening.py SUBCOMMAND --help" lists the trainer's settings; "SUBCOMMAND --model.help CLASS" and "--data.help
CLASS" list those of a class.
"""


def answer_early(args: Sequence[str]) -> int | None:
    """Answer a command line for which neither torch nor Lightning is needed.

    Args:
        args: As after the program's name.

    Returns:
        The exit status, after `--help` or a mistake in a configuration; None if there is more to do.
    """
    if args and args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    return run_command(check_configurations, with_shipped_settings(args), _one_line) or None


def _one_line(error: Exception) -> str | None:
    return in_one_line(error, CHECK_PATH) if isinstance(error, NoTimeToTrainError | OSError) else None


def check_configurations(args: Sequence[str]) -> None:
    """Read the configuration files that are named, before Lightning does, which says less of what is wrong with them.

    Raises:
        NoTimeToTrainError: As `read_yaml` does.
        ConfigError: None of them says which model, or one has a setting that the matching baselines do not take.
    """
    named = list(configurations(args))
    documents = [read_yaml(Path(name)) for name in named]
    check_empty(args, documents)
    models = [document.get("model") for document in documents]
    by_option = any(re.match(r"--model(\.class_path)?(=|$)", arg) for arg in args)
    says = any(isinstance(model, str) or (isinstance(model, dict) and "class_path" in model) for model in models)
    if named and not by_option and not says:
        raise ConfigError(
            f"{named[-1]} does not say which model", remedy="give it behind a whole configuration of pl_configs/"
        )
    given = [("", _nested(*option)) for option in _options(args)]
    sources = [*zip((f"{name}: " for name in named), documents, strict=True), *given]
    parts = [(source, document["model"]) for source, document in sources if "model" in document]
    classes = [part.get("class_path") if isinstance(part, dict) else part for _, part in parts]
    if not all(name.startswith(_OWN) for name in classes if isinstance(name, str)):
        return
    for source, part in parts:
        settings = part.get("init_args", part) if isinstance(part, dict) else None
        if isinstance(settings, dict):
            _check(settings.get("model_cfg"), MatcherConfig, "model.model_cfg", source)


def with_shipped_settings(args: Sequence[str]) -> list[str]:
    """Return a command line with the places of the shipped YAMLs that it names, such as `-c quickstart`."""
    named = set(configurations(args))
    found = {name: str(find_settings(name)) for name in named}
    replaced = {**found, **{f"--config={name}": f"--config={path}" for name, path in found.items()}}
    behind = ("-c", "--config")
    return [
        replaced.get(arg, arg) if arg.startswith("--config=") or before in behind else arg
        for before, arg in pairwise(["", *args])
    ]


def names_subcommand(args: Sequence[str]) -> bool:
    """Return whether a subcommand stands where one can: first, or behind configuration files."""
    rest = list(args)
    while rest and rest[0].startswith(("-c", "--config")):
        del rest[: 1 if "=" in rest[0] else 2]
    return bool(rest) and rest[0] in (*SUBCOMMANDS, "-h", "--help")


def check_names(args: Sequence[str]) -> None:
    """Say of the first setting that nothing takes what there is in its place.

    Called when the parser has refused settings, of whose names it says less.

    Args:
        args: The command line, with its configuration files.

    Raises:
        ConfigError: There is such a setting; not where the fault is another one.
    """
    documents = [(f"{name}: ", read_yaml(Path(name))) for name in configurations(args)]
    given = [("", _nested(*option)) for option in _options(args)]
    from lightning.pytorch import Trainer

    classes: dict[str, Any] = {"trainer": Trainer}
    for _, document in documents + given:
        for part in ("model", "data"):
            value = document.get(part)
            named = value if isinstance(value, str) else value.get("class_path") if isinstance(value, dict) else None
            if isinstance(named, str):
                classes[part] = _class(named)
    known = (*_PARTS, *_OTHERS)
    for source, document in documents + given:
        for key, value in document.items():
            if key in _PARTS:
                _check(value, classes.get(key), key, source)
            elif key not in (*_OTHERS, *_FOREIGN):
                raise ConfigError(f"{source}{key} is not a setting of a run", remedy=_instead(key, known))


def check_kinds(settings: Namespace) -> None:
    """Refuse null, and values without names, where a class of this package does not take them; the parser does not.

    Args:
        settings: Of a subcommand, as they are parsed.

    Raises:
        ConfigError: There is one.
    """
    for part in _PARTS:
        _check_class(settings.get(part), part)


def _check_class(value: Any, place: str) -> None:
    """Look into the classes that are named in settings."""
    if isinstance(value, list):
        for entry in value:
            _check_class(entry, place)
    elif isinstance(value, Namespace) and "class_path" in value:
        owner = _class(value.class_path)
        if inspect.isclass(owner) and owner.__module__.startswith(_OWN):
            init_args = value.get("init_args")
            entries = vars(init_args) if isinstance(init_args, Namespace) else {}
            _check_entries(entries, get_type_hints(owner.__init__), place)
    elif isinstance(value, Namespace):
        for key, entry in vars(value).items():
            _check_class(entry, f"{place}.{key}")


def _check_entries(given: Mapping[str, Any], hints: Mapping[str, Any], place: str) -> None:
    for key, value in given.items():
        hint = hints.get(key, Any)
        owner = _owner_in(hint)
        if isinstance(value, Namespace | dict):
            if owner is not None:
                inner = vars(value) if isinstance(value, Namespace) else value
                _check_entries(inner, get_type_hints(owner), f"{place}.{key}")
        elif value is None and hint is not Any and NoneType not in get_args(hint):
            raise ConfigError(f"{place}.{key} is null", remedy="set it, or leave it out for the default")
        elif value is not None and owner is not None and not isinstance(value, owner):
            raise ConfigError(
                f"{place}.{key} is {value!r:.60}, expected settings by name", remedy="correct it, or leave it out"
            )


def _check(value: Any, owner: Any, place: str, source: str) -> None:
    """Look into what is set of a class.

    Args:
        value: What is set.
        owner: The class, or None if it is not known.
        place: The name of the setting.
        source: The file, for messages.

    Raises:
        ConfigError: A name that the class does not take.
    """
    if isinstance(value, list):
        for entry in value:
            _check(entry, owner, place, source)
        return
    if not isinstance(value, dict):
        return
    if "class_path" in value:
        path = value["class_path"]
        owner = _class(path)
        if not isinstance(path, str) or not re.fullmatch(r"\w+(\.\w+)*", path):
            raise ConfigError(
                f"{source}{place}.class_path is {path!r:.60}, expected the dotted name of a class",
                remedy="correct it as in the YAMLs under pl_configs/",
            )
    # On the command line, init_args may be left out.
    given = {key: entry for key, entry in value.items() if key not in ("class_path", "init_args", "dict_kwargs")}
    inner = value.get("init_args", {})
    if not isinstance(inner, dict):
        raise ConfigError(
            f"{source}{place}.init_args is {inner!r:.60}, expected settings by name",
            remedy="correct it, or leave it out",
        )
    given |= inner
    taken = _settings(owner)
    if taken is None:
        return
    for key, entry in given.items():
        if key.rstrip("+") not in taken:
            raise ConfigError(
                f"{source}{place} has no setting {key!r}: {_name(owner)} does not take it",
                remedy=_elsewhere(key, owner, taken) if place == "data" else _instead(key, taken),
            )
        _check(entry, taken[key.rstrip("+")], f"{place}.{key}", source)


def _settings(owner: Any) -> Mapping[str, Any] | None:
    """Return the names that a class takes with the class of each that has settings of its own; None if unknown."""
    if not inspect.isclass(owner):
        return None
    if is_dataclass(owner):
        hints = get_type_hints(owner)
        return {entry.name: _owner_in(hints[entry.name]) for entry in fields(owner)}
    parameters = list(inspect.signature(owner).parameters.values())
    if any(parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) for parameter in parameters):
        return None
    hints = get_type_hints(owner.__init__) if owner.__module__.startswith(_OWN) else {}
    return {parameter.name: _owner_in(hints.get(parameter.name)) for parameter in parameters}


def _owner_in(hint: Any) -> Any:
    """Return the dataclass that a setting is made of, also of one that may be None."""
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)


def _class(path: Any) -> Any:
    module, _, name = str(path).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception:  # what importing another's module raises has no limits
        return None


def _name(owner: Any) -> str:
    return str(owner.__name__)


def _instead(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    names = sorted(known)
    return f"{nearest(key, names)}it takes {', '.join(names)}"


def _elsewhere(key: str, owner: Any, taken: Mapping[str, Any]) -> str:
    """Name the data modules that take a setting which this one does not."""
    others = [path for path in _DATA_MODULES if key in (_settings(_class(path)) or ())]
    if not others:
        return _instead(key, taken)
    return f"take another data module, which does: --data {' or '.join(others)}; {_name(owner)} {_takes(taken)}"


def _takes(taken: Mapping[str, Any]) -> str:
    return f"takes {', '.join(sorted(taken))}"


def configurations(args: Sequence[str]) -> Iterator[str]:
    """Yield the configuration files that a command line names, in their order."""
    for place, arg in enumerate(args):
        if arg.startswith("--config="):
            yield arg.removeprefix("--config=")
        elif arg in ("-c", "--config") and place + 1 < len(args):
            yield args[place + 1]


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options that have a dotted name or belong to a part, with their values."""
    for place, arg in enumerate(args):
        match = re.fullmatch(r"--([\w.+-]+)(?:=(.*))?", arg, re.DOTALL)
        if match and match[1].split(".")[0].rstrip("+") not in _FOREIGN:
            following = args[place + 1] if place + 1 < len(args) else ""
            yield match[1], following if match[2] is None else match[2]


def _nested(name: str, value: str) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: _nested(rest, value) if rest else value}
