"""Command lines of the pages: parsed by the programs' own parsers, or run in this process."""

import inspect
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from no_time_to_train import cli
from no_time_to_train.cli import weights as weights_commands
from no_time_to_train.cli.lightning import command as lightning_cli
from tests.clients.exports.plan import CLIENTS
from tests.docs.blocks import ROOT

# Programs that are not this project's: what stands behind them is theirs.
FOREIGN = {
    "git": "the version control's",
    "hf": "the Hub's own command line, which needs a network",
    "labelme2coco": "another project's, which is not installed with this one",
    "pip": "installs from the network",
    "sbatch": "SLURM's, on a cluster",
}


class Parsed(Exception):
    """Raised in the place of running: the arguments were understood."""


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a command without running it.

    Raises:
        AssertionError: A program, module, make target, option, value or configuration file is not there.
    """
    program, arguments = Path(words[0]).name, words[1:]
    if program in FOREIGN:
        return
    if program == "srun":
        begin = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
        parse(arguments[begin:], monkeypatch)
    elif program == "torchrun":
        begin = next(index for index, word in enumerate(arguments) if word.endswith(".py"))
        _parse_torchrun(arguments[:begin])
        parse(["python", *arguments[begin:]], monkeypatch)
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(arguments) <= targets, f"the Makefile has no {set(arguments) - targets}"
    elif words[0] == "tests/clients/run.sh":
        assert set(arguments[1:]) <= CLIENTS.keys(), f"run.sh has no {set(arguments[1:]) - CLIENTS.keys()}"
    elif program == "python" and arguments[0] == "-m":
        module = ROOT / Path(*arguments[1].split("."))
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), arguments[1]
        if arguments[1] == "no_time_to_train":
            _parse_ntt(arguments[2:], monkeypatch)
    elif program == "python":
        assert arguments[0] == "run_lightening.py", arguments[0]
        _parse_lightning(arguments[1:], monkeypatch)
    elif program == "ntt":
        _parse_ntt(arguments, monkeypatch)
    elif program == "dinov3-fetcher":
        _parse_fetcher(arguments, monkeypatch)
    else:
        message = f"{program} is not a program of this project, and not among those of others"
        raise AssertionError(message)


def run(words: list[str]) -> None:
    """Run a command in this process.

    Raises:
        AssertionError: It does not end with status 0, or is none that can be run here.
    """
    program, arguments = Path(words[0]).name, words[1:]
    if program == "ntt":
        status = cli.main(arguments)
    else:
        assert (program, arguments[0]) == ("python", "run_lightening.py"), words
        status = lightning_cli.main(arguments[1:])
    assert status == 0, f"{' '.join(words)} ended with status {status}"


def _parse_torchrun(options: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    get_args_parser().parse_args([*options, "script.py"])


def _parse_lightning(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(self: lightning_cli.NttLightningCLI) -> None:
        raise Parsed

    monkeypatch.setattr(lightning_cli.NttLightningCLI, "before_instantiate_classes", parsed)
    _understood(lambda: lightning_cli.main(arguments), arguments)


def _parse_ntt(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in cli.COMMANDS), None)
    assert name is not None, f"ntt has no command {arguments[0]}"
    monkeypatch.setitem(cli.COMMANDS, name, _not_run(cli.COMMANDS[name]))
    _understood(lambda: cli.main(arguments), arguments)


def _parse_fetcher(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_commands, "fetcher", _not_run(weights_commands.fetcher))
    _understood(lambda: cli.fetcher_main(arguments), arguments)


def _understood(call: Callable[[], Any], arguments: list[str]) -> None:
    for option, value in pairwise(arguments):
        # Those of configurations that the reader writes are no files of the repository.
        if option == "--config" and value.startswith("pl_configs/"):
            assert (ROOT / value).is_file(), f"there is no {value}"
    with pytest.raises(Parsed):
        call()


def _not_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same parameters and help that is not run."""

    def stand_in(*values: Any, **options: Any) -> None:
        raise Parsed

    stand_in.__signature__ = inspect.signature(command)  # type: ignore[attr-defined] # inspect looks there
    stand_in.__annotations__, stand_in.__doc__ = command.__annotations__, command.__doc__
    return stand_in
