"""`ntt`: the commands around the main job.

Each command is a plain function; its options and help come from its signature and docstring. Neither torch nor a model
is imported before a command needs it.
"""

import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from no_time_to_train.cli import weights as weights_commands
from no_time_to_train.cli.compare import compare
from no_time_to_train.cli.data import demo, sample_references_command
from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line, run_command
from no_time_to_train.cli.export import export, export_pipeline
from no_time_to_train.cli.predict import predict
from no_time_to_train.errors import ConfigError, NoTimeToTrainError
from no_time_to_train.io.messages import nearest
from no_time_to_train.io.paths import check_local, in_home
from no_time_to_train.io.process import program


def write_shapes(
    root: Path, seed: int = 0, size: int = 256, shots: int = 5, num_targets: int = 40, distractors: bool = True
) -> None:
    """Write the embedded synthetic few-shot dataset as JPEG files and COCO JSON.

    Args:
        root: Folder to write.
        seed: The same seed gives the same files.
        size: Side of the square images, in pixels.
        shots: References a class.
        num_targets: Target images.
        distractors: Draw objects of other classes among the targets' too.
    """
    from no_time_to_train.data.synthetic.dataset import write_shapes as write

    paths = write(root, seed=seed, size=size, shots=shots, num_targets=num_targets, distractors=distractors)
    print(f"references: {paths.references_json}\ntargets: {paths.targets_json}\nimages: {paths.image_dir}")


def quickstart_report(
    seed: int = 2026, json: bool = False, num_images: int = 200, settings: Path = Path("pl_configs/quickstart.yaml")
) -> None:
    """Measure the models that the project ships, on synthetic data of a fresh seed; some ten minutes on two cores.

    Args:
        seed: Of the data.
        json: Print the figures as JSON and nothing else.
        num_images: Targets with and without distractors each.
        settings: The YAML whose models and thresholds are measured.
    """
    from no_time_to_train.training.quickstart import report

    figures = report.quickstart_report(seed=seed, num_images=num_images, config=settings)
    print(report.as_json(figures) if json else report.as_text(figures))


COMMANDS: dict[str, Callable[..., int | None]] = {
    "compare": compare,
    "convert": weights_commands.convert,
    "demo": demo,
    "doctor": weights_commands.doctor,
    "export": export,
    "export-pipeline": export_pipeline,
    "fetch": weights_commands.fetch,
    "inspect": weights_commands.inspect,
    "predict": predict,
    "quickstart-report": quickstart_report,
    "sample-references": sample_references_command,
    "validate": weights_commands.validate,
    "write-shapes": write_shapes,
}

# Parameters that need no option's name.
POSITIONAL: dict[str, tuple[str, ...]] = {
    "compare": ("encoder",),
    "convert": ("source", "destination"),
    "doctor": ("encoder",),
    "export": ("encoder",),
    "fetch": ("name",),
    "inspect": ("path",),
    "validate": ("root",),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: As after the program's name; those of the process if None.

    Returns:
        The exit status: what the command gives, 0 if it gives none, 2 after bad input.
    """
    if args is None:
        return program(main, "ntt")
    given = list(args)
    command = COMMANDS.get(given[0]) if given else None
    spelled = [given[0], *_spelled_out(given[1:], command, POSITIONAL.get(given[0], ()))] if command else given

    def run(args: list[str]) -> Any:
        from jsonargparse import auto_cli

        if command is not None:
            args = _with_paths(args, command)

        try:
            return auto_cli({**COMMANDS}, args=args, prog="ntt", exit_on_error=False, as_positional=False)
        except ArgumentError as error:
            _check_names(args, command, error)
            raise

    prog = f"ntt {given[0]}" if command else "ntt"
    return run_command(run, spelled, lambda error: _in_one_line(error, prog))


def fetcher_main(args: Sequence[str] | None = None) -> int:
    """Run `dinov3-fetcher`; see `main`."""
    if args is None:
        return program(fetcher_main, "dinov3-fetcher")
    from jsonargparse import ArgumentParser

    # Its `--config` is a file of its own kind, so that auto_cli, which has one of those too, is of no use here.
    parser = ArgumentParser(
        prog="dinov3-fetcher",
        description="Fetch the DINOv3 weights that a training's JSON configuration wants.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="JSON: train.dino_root is the folder to fetch into, relative to this file's own; without it, one under "
        "paths.dataset_root; train.dino_model, if there, names the model.",
    )
    parser.add_argument("--model", type=str, help="A registry name or a Hub id, before the configuration's.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")
    parser.add_argument("--json", action="store_true", help="Print what was done as JSON, and show no progress.")

    def run(given: list[str]) -> None:
        options = parser.parse_args(given)
        weights_commands.fetcher(options.config, options.model, quiet=options.quiet, json=options.json)

    return run_command(run, args, lambda error: _in_one_line(error, "dinov3-fetcher"))


def _in_one_line(error: Exception, prog: str) -> str | None:
    """Return what a user needs of an error in one line, or None if it is not the user's to mend."""
    if isinstance(error, ArgumentError):
        return in_one_line(error, f"{prog} --help lists what there is")
    return in_one_line(error, CHECK_PATH) if isinstance(error, NoTimeToTrainError | OSError) else None


def _check_names(args: Sequence[str], command: Callable[..., Any] | None, error: ArgumentError) -> None:
    """Name the valid options or commands where a given one is unknown.

    Args:
        args: As they were parsed.
        command: The command; None if the name is unknown.
        error: What the parser says.

    Raises:
        ConfigError: There is such an option or command; not where the fault is another one.
    """
    if command is None:
        if args and args[0] and not args[0].startswith("-"):
            meant = nearest(args[0], list(COMMANDS))
            raise ConfigError(f"ntt has no command {args[0]}", remedy=f"{meant}it has {', '.join(COMMANDS)}") from error
        return
    known = [f"--{name.replace('_', '-')}" for name in inspect.signature(command).parameters]
    found = re.search(r"unrecognized arguments: (--[\w-]+)", str(error))
    if found:
        name = found[1].replace("_", "-")
        raise ConfigError(
            f"ntt {args[0]} has no option {name}", remedy=f"{nearest(name, known)}it has {', '.join(known)}"
        ) from error


def _with_paths(args: Sequence[str], command: Callable[..., Any]) -> list[str]:
    """Return a command's arguments with `~` filled in, which a shell does only where it begins an argument.

    Args:
        args: As `_spelled_out` returns them.
        command: The command.

    Raises:
        ConfigError: A path is an address, or holds a variable.
    """
    parameters = inspect.signature(command).parameters.items()
    kinds = {f"--{name}": _given(parameter.annotation) for name, parameter in parameters}
    paths = {name: get_origin(kind) is list for name, kind in kinds.items() if "Path" in str(kind)}

    def filled(option: str, text: str) -> str:
        if paths[option] and not text.startswith("["):
            return text  # The option has no value; the parser says so.
        given: list[str] = json.loads(text) if paths[option] else [text]
        for path in given:
            check_local(path, option.replace("_", "-"))
        found = [in_home(path) for path in given]
        return json.dumps(found) if paths[option] else found[0]

    spelled: list[str] = []
    for before, arg in pairwise(["", *args]):
        name, equals, value = arg.partition("=")
        if before in paths:
            spelled.append(filled(before, arg))
        else:
            spelled.append(f"{name}={filled(name, value)}" if equals and name in paths else arg)
    return spelled


def _spelled_out(args: Sequence[str], command: Callable[..., Any], positional: Sequence[str]) -> list[str]:
    """Spell a command's arguments as jsonargparse wants them.

    `--allow-fewer` becomes `--allow_fewer true`, what stands without an option's name goes to the command's
    `positional` parameters in their order, and options that take several values take all that follow, and may come
    again.
    """
    parameters = inspect.signature(command).parameters.items()
    flags = {f"--{name}" for name, parameter in parameters if parameter.annotation is bool}
    kinds = {f"--{name}": _given(parameter.annotation) for name, parameter in parameters}
    several = {name: get_args(kind)[0] for name, kind in kinds.items() if get_origin(kind) is list}
    waiting, spelled, rest = list(positional), [], list(args)
    lists: dict[str, list[str]] = {}
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if not arg.startswith("-") and waiting:
            spelled += [f"--{waiting.pop(0)}", arg]
            continue
        option = name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name
        if option == "--config" and "--settings" in kinds:
            # jsonargparse has a --config of its own, for options; a command's settings are a YAML of the main job.
            option = "--settings"
        if option in several:
            values = [value] if equals else []
            while rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            if values:
                lists.setdefault(option, []).extend(values)
            else:
                spelled.append(option)
            continue
        spelled.append(f"{option}{equals}{value}")
        if option in flags and not equals:
            spelled.append(rest.pop(0) if rest and rest[0].lower() in {"true", "false"} else "true")
        elif option.startswith("--") and not equals and rest and option not in {"--help", "--print_config", "--debug"}:
            spelled.append(rest.pop(0))
    for option, values in lists.items():
        # As one list; in quotes, where a path may look like YAML.
        spelled += [option, f"[{', '.join(values)}]" if several[option] is int else json.dumps(values)]
    return spelled


def _given(annotation: Any) -> Any:
    """Return what an option is when it is given: `list[int] | None` is a list."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if isinstance(annotation, UnionType) and len(kinds) == 1 else annotation
