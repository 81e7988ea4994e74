"""`ntt`: the commands around the main job, and the main job itself.

Each command is a plain function; its options and help come from its signature and docstring, by cyclopts. Neither torch
nor a model is imported before a command needs it.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from no_time_to_train import __version__
from no_time_to_train.cli import references as reference_commands
from no_time_to_train.cli import weights as weights_commands
from no_time_to_train.cli.compare import compare
from no_time_to_train.cli.data import demo, sample_references_command, write_shapes
from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line, run_command
from no_time_to_train.cli.export import export, export_pipeline
from no_time_to_train.cli.installation import info, setup
from no_time_to_train.cli.options import LAST_COUNTS, GivenPath, wrong_arguments
from no_time_to_train.cli.predict import predict
from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.io.process import program as run_program


def quickstart_report(
    *,
    seed: int = 2026,
    json: bool = False,
    num_images: int = 200,
    settings: Annotated[GivenPath, Parameter(name=("--config", "-c", "--settings"))] = Path(
        "pl_configs/quickstart.yaml"
    ),
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


_Words = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def test(*words: _Words) -> int:
    """Run what a YAML describes: the matching of references and targets, or a training's test.

    As `run_lightening.py` does; `ntt test --help` is its help.
    """
    return _run_lightning(["test", *words])


def fit(*words: _Words) -> int:
    """Train what a YAML describes, such as pl_configs/distill_dinov3_small.yaml.

    As `run_lightening.py fit` does; `ntt fit --help` is its help.
    """
    return _run_lightning(["fit", *words])


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the completion script of a shell.

    Args:
        shell: bash, zsh or fish.
    """
    print(build_app().generate_completion(prog_name="ntt", shell=shell))


COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "predict": predict,
    "references check": reference_commands.check,
    "references convert": reference_commands.convert,
    "memory show": reference_commands.show,
    "sample-references": sample_references_command,
    "write-shapes": write_shapes,
    "setup": setup,
    "fetch": weights_commands.fetch,
    "inspect": weights_commands.inspect,
    "convert": weights_commands.convert,
    "validate": weights_commands.validate,
    "doctor": weights_commands.doctor,
    "export": export,
    "export-pipeline": export_pipeline,
    "compare": compare,
    "test": test,
    "fit": fit,
    "quickstart-report": quickstart_report,
    "info": info,
    "completion": completion,
}

_SUBJECTS = {"references": "Check references, or write them as COCO JSON.", "memory": "Look into a memory file."}
# What the help shows together.
_GROUPS = {
    "Find objects": (
        *("demo", "predict", "references check", "references convert", "memory show"),
        *("sample-references", "write-shapes"),
    ),
    "Weights": ("setup", "fetch", "inspect", "convert", "validate", "doctor"),
    "Export and compare": ("export", "export-pipeline", "compare"),
    "Run a YAML": ("test", "fit", "quickstart-report"),
    "This program": ("info", "completion"),
}
_EXAMPLES = {
    "compare": "ntt compare checkpoints/quickstart/encoder",
    "completion": "ntt completion bash > ~/.local/share/bash-completion/completions/ntt",
    "convert": "ntt convert dinov3_vits16.pth dinov3-small/ --to hf",
    "demo": "ntt demo -o demo/",
    "doctor": "ntt doctor dinov3_base",
    "export": "ntt export dinov3_small --weights checkpoints/dinov3-small -o exported/",
    "export-pipeline": "ntt export-pipeline -c quickstart -o bundle/",
    "fetch": "ntt fetch dinov3_base",
    "fit": "ntt fit -c pl_configs/distill_dinov3_small.yaml",
    "inspect": "ntt inspect dinov3_vits16.pth",
    "predict": "ntt predict photos/ -r refs/ -o found/ --report",
    "references check": "ntt references check refs/ --bundle quickstart",
    "references convert": "ntt references convert refs/ -o refs.json",
    "memory show": "ntt memory show boats.safetensors",
    "sample-references": "ntt sample-references --annotations train.json --shots 3 -o refs.json",
    "setup": "ntt setup --yes",
    "test": "ntt test -c pl_configs/quickstart.yaml",
    "validate": "ntt validate checkpoints/dinov3-small --deep",
    "write-shapes": "ntt write-shapes --root shapes/",
}
# Their parsers are Lightning's.
_LIGHTNING = ("test", "fit")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: As after the program's name; those of the process if None.

    Returns:
        The exit status: what the command gives, 0 if it gives none, 2 after bad input.
    """
    if args is None:
        return run_program(main, "ntt")
    given = list(args)
    if given[:1] == ["validate"] and any(word.split("=")[0] in {"-c", "--config"} for word in given):
        return _run_lightning(given)  # the other one, of weights, has no such option
    if given and given[0] in _LIGHTNING:
        command = COMMANDS[given[0]]
        return command(*given[1:]) or 0
    return run_command(_run, given, lambda error: _in_one_line(error, "ntt"))


def _run(args: list[str]) -> Any:
    command, bound, _ = build_app().parse_args(_spelled(args), exit_on_error=False, print_error=False)
    return command(*bound.args, **bound.kwargs)


def build_app() -> App:
    """Return the program, its commands by topic."""
    app = App(
        name="ntt",
        help="Find objects in images by a few references, without training.",
        version=__version__,
        help_format="plaintext",
        help_epilogue='"ntt COMMAND --help" shows the options of a command.',
        result_action="return_value",
        default_parameter=LAST_COUNTS,
    )
    for index, (topic, names) in enumerate(_GROUPS.items()):
        group = Group(topic, sort_key=index)
        for name in names:
            *place, last = name.split()
            of = _subject(app, place[0], group) if place else app
            example = f"Example: {_EXAMPLES[name]}" if name in _EXAMPLES else ""
            shown: dict[str, Any] = {} if place else {"group": group}
            of.command(COMMANDS[name], name=last, help_epilogue=example, **shown)
    return app


def _subject(app: App, name: str, group: Group) -> App:
    """Return what commands of two words have in common."""
    if name not in app:
        app.command(App(name=name, help=_SUBJECTS[name], help_format="plaintext", group=group))
    return app[name]


def _spelled(args: Sequence[str]) -> list[str]:
    """Spell arguments as the parser reads them.

    `--report true` becomes `--report=true`: a flag's value need not be given, and may be. `-`, standard input, becomes
    `./-`: the same path, which is not taken for an option.
    """
    args = ["./-" if arg == "-" else arg for arg in args]
    command = COMMANDS.get(" ".join(args[:2])) or COMMANDS.get(args[0]) if args else None
    if command is None:
        return list(args)
    flags = {name for name, parameter in inspect.signature(command).parameters.items() if parameter.annotation is bool}
    spelled: list[str] = []
    for arg in args:
        if spelled and arg.lower() in {"true", "false"}:
            name = spelled[-1].lstrip("-").replace("-", "_")
            if spelled[-1].startswith("--") and {name, name.removeprefix("no_")} & flags:
                spelled[-1] += f"={arg.lower()}"
                continue
        spelled.append(arg)
    return spelled


def _run_lightning(args: list[str]) -> int:
    from no_time_to_train.cli.lightning.arguments import answer_early

    status = answer_early(args)
    if status is not None:
        return status
    from no_time_to_train.cli.lightning.command import main as run_lightning

    return run_lightning(args)


def fetcher_main(args: Sequence[str] | None = None) -> int:
    """Run `dinov3-fetcher`; see `main`."""
    if args is None:
        return run_program(fetcher_main, "dinov3-fetcher")

    def run(given: list[str]) -> Any:
        app = App(
            name="dinov3-fetcher",
            version=__version__,
            help_format="plaintext",
            result_action="return_value",
            default_parameter=LAST_COUNTS,
            default_command=weights_commands.fetcher,
        )
        command, bound, _ = app.parse_args(given, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs)

    return run_command(run, args, lambda error: _in_one_line(error, "dinov3-fetcher"))


def _in_one_line(error: Exception, program: str) -> str | None:
    """Return what a user needs of an error in one line, or None if it is not the user's to mend."""
    if isinstance(error, CycloptsError):
        return wrong_arguments(error, program)
    return in_one_line(error, CHECK_PATH) if isinstance(error, NoTimeToTrainError | OSError) else None
