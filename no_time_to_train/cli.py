"""`ntt`: the commands around the main job.

Each command is a plain function; its options and help come from its signature and docstring. Neither torch nor a model
is imported before a command needs it.
"""

import inspect
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from no_time_to_train.data.sampling import sample_references_command
from no_time_to_train.errors import NoTimeToTrainError


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
    from no_time_to_train.data.shapes import write_shapes as write

    paths = write(root, seed=seed, size=size, shots=shots, num_targets=num_targets, distractors=distractors)
    print(f"references: {paths.references_json}\ntargets: {paths.targets_json}\nimages: {paths.image_dir}")


def inspect_command(path: Path, headers_only: bool = False, json: bool = False) -> None:
    """Tell what a weights file or folder is, from its tensors: layout, architecture, registry entry, hash, NaN.

    Args:
        path: A file or a Hugging Face folder, of an encoder or of SAM2.
        headers_only: Read names and shapes alone: at once, however large the file is, but without hash and NaN.
        json: Print JSON.
    """
    from no_time_to_train.weights import inspect_weights

    report = inspect_weights(path, headers_only=headers_only)
    print(report.as_json() if json else report.as_text())


def convert_command(source: Path, destination: Path, to: Literal["hf", "meta"]) -> None:
    """Write an encoder's weights in another layout, byte by byte, however large they are.

    Args:
        source: A file or a Hugging Face folder in any layout.
        destination: A new folder for `hf`, a new .pth file for `meta`.
        to: `hf` is a folder that transformers opens, `meta` is Meta's own layout.
    """
    from no_time_to_train.models.conversion import convert_weights

    print(convert_weights(source, destination, to))


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
    from no_time_to_train.quickstart import report

    figures = report.quickstart_report(seed=seed, num_images=num_images, config=settings)
    print(report.as_json(figures) if json else report.as_text(figures))


COMMANDS: dict[str, Callable[..., None]] = {
    "convert": convert_command,
    "inspect": inspect_command,
    "quickstart-report": quickstart_report,
    "sample-references": sample_references_command,
    "write-shapes": write_shapes,
}

# Parameters that need no option's name.
POSITIONAL: dict[str, tuple[str, ...]] = {"convert": ("source", "destination"), "inspect": ("path",)}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: As after the program's name; those of the process if None.

    Returns:
        The exit status: 0, or 2 after bad input.
    """
    from jsonargparse import auto_cli

    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [arg for arg in given if arg != "--debug"]
    try:
        auto_cli(
            {**COMMANDS},
            args=_spelled_out(given),
            prog="ntt",
            exit_on_error=False,
            as_positional=False,
        )
    except (NoTimeToTrainError, ArgumentError, OSError) as error:
        if debug:
            raise
        remedy = " (ntt --help lists what there is)" if isinstance(error, ArgumentError) else ""
        print(f"error: {' '.join(str(error).split())}{remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _spelled_out(args: Sequence[str]) -> list[str]:
    """Spell arguments as jsonargparse wants them.

    `--allow-fewer` becomes `--allow_fewer true`, and what stands without an option's name goes to the command's
    `POSITIONAL` parameters in their order.
    """
    command = COMMANDS.get(args[0]) if args else None
    if command is None:
        return list(args)
    parameters = inspect.signature(command).parameters.items()
    flags = {f"--{name}" for name, parameter in parameters if parameter.annotation is bool}
    waiting = list(POSITIONAL.get(args[0], ()))
    spelled, rest = [args[0]], list(args[1:])
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if not arg.startswith("-") and waiting:
            spelled += [f"--{waiting.pop(0)}", arg]
            continue
        option = name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name
        spelled.append(f"{option}{equals}{value}")
        if option in flags and not equals:
            spelled.append(rest.pop(0) if rest and rest[0].lower() in {"true", "false"} else "true")
        elif option.startswith("--") and not equals and rest and option not in {"--help", "--config"}:
            spelled.append(rest.pop(0))
    return spelled
