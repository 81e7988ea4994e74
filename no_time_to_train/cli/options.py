"""Types of command-line options, and error messages for wrong arguments.

Paths as people type them, lists, and the short names of common options.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import (
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    Token,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from no_time_to_train.cli.error_messages import in_one_line
from no_time_to_train.errors import ConfigError, NoTimeToTrainError
from no_time_to_train.io.messages import nearest
from no_time_to_train.io.paths import check_local, in_home
from no_time_to_train.io.redact import printable, redact

# Stands for an argument without an option's name, which a converter is not told.
_UNNAMED = "<argument>"


def _texts(tokens: Sequence[Token]) -> list[str]:
    """Return the values of an option; a list may be given as JSON too.

    Raises:
        ConfigError: What begins as a JSON list is not one of texts.
    """
    texts: list[str] = []
    for token in tokens:
        # Patterns such as `[ab]*.jpg` begin like a list.
        if not token.value.startswith("[") or (not token.value.startswith('["') and not token.value.endswith("]")):
            texts.append(token.value)
            continue
        try:
            given = json.loads(token.value)
        except ValueError:
            given = None
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise ConfigError(f"{_name(token)} is {token.value:.60}, expected paths", remedy="write one after another")
        texts += given
    return texts


def _path(text: str, token: Token) -> Path:
    check_local(text, _name(token))
    return Path(in_home(text))


def _name(token: Token) -> str:
    return (token.keyword or _UNNAMED).replace("_", "-")


def _to_path(kind: Any, tokens: Sequence[Token]) -> Path:
    return _path(tokens[0].value, tokens[0])


def _to_paths(kind: Any, tokens: Sequence[Token]) -> list[Path]:
    return [_path(text, tokens[0]) for text in _texts(tokens)]


def _to_sources(kind: Any, tokens: Sequence[Token]) -> list[str]:
    """Return sources of references as they were typed: of `a//b.jpg:apple@1,2` a path would be another text."""
    texts = _texts(tokens)
    for text in texts:
        check_local(text, _name(tokens[0]))
    return [in_home(text) if text.startswith("~") else text for text in texts]


def _to_texts(kind: Any, tokens: Sequence[Token]) -> list[str]:
    return _texts(tokens)


# Of an option that is given twice, the last value counts: scripts add theirs to a line that stands.
LAST_COUNTS = Parameter(allow_repeating=True)
# An option of these takes all values that follow it, one at least, and may come again.
SEVERAL = Parameter(consume_multiple=(1, 1_000_000), negative_iterable=())
# `~` is filled in, and addresses and variables are refused: shells leave `--output=~/x` and '$HOME/x' as they are.
GivenPath = Annotated[Path, Parameter(converter=_to_path)]
OptionalPath = Annotated[Path | None, Parameter(converter=_to_path)]
Paths = Annotated[list[Path], SEVERAL, Parameter(converter=_to_paths, json_list=False)]
OptionalPaths = Annotated[list[Path] | None, SEVERAL, Parameter(converter=_to_paths, json_list=False)]
OptionalTexts = Annotated[list[str] | None, SEVERAL, Parameter(converter=_to_texts)]
References = Annotated[list[str], SEVERAL, Parameter(converter=_to_sources, json_list=False)]
OptionalReferences = Annotated[list[str] | None, SEVERAL, Parameter(converter=_to_sources, json_list=False)]
Output = Annotated[GivenPath, Parameter(alias="-o")]
OptionalOutput = Annotated[OptionalPath, Parameter(alias="-o")]
Settings = Annotated[OptionalPaths, Parameter(name=("--config", "-c", "--settings"))]

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def wrong_arguments(error: CycloptsError, program: str) -> str:
    """Say in one line what is wrong with a command's arguments, what was expected, and what to do.

    Args:
        error: What the parser says.
        program: The program's name.
    """
    own = error.__cause__
    if isinstance(own, NoTimeToTrainError):
        name = error.argument.name if error.argument is not None else _UNNAMED
        return in_one_line(own, "").replace(_UNNAMED, name, 1)
    name = " ".join([program, *(error.command_chain or ())])
    what, remedy = _told(error, name)
    return printable(redact(f"{what} ({remedy or f'{name} --help lists what there is'})"))


def _told(error: CycloptsError, name: str) -> tuple[str, str]:
    """Return what is wrong, and what to do if there is more to say than where the help is."""
    if isinstance(error, UnknownCommandError):
        commands = [command for command in error.app or () if not command.startswith("-")]
        given = (error.unused_tokens or [""])[0] or "''"
        return f"{name} has no command {given}", f"{nearest(given, commands)}it has {', '.join(commands)}"
    if isinstance(error, UnknownOptionError):
        option = (error.token.keyword or error.token.value).split("=")[0]
        known = _options(error.argument_collection)
        return f"{name} has no option {option}", f"{nearest(option, known)}it has {', '.join(known)}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword is not None:
            return f"{error.keyword} has no value", ""
        return f"{name} lacks what is required: {', '.join(_missing(error))}", ""
    if isinstance(error, CoercionError) and error.token is not None:
        option = error.token.keyword or (error.argument.name if error.argument else "a value")
        kind = _KINDS.get(error.target_type) if isinstance(error.target_type, type) else None
        if kind is not None:
            return f"{option} is {error.token.value:.60}, expected {kind}", ""
    if isinstance(error, UnusedCliTokensError):
        return f"{name} takes no more, and got {' '.join(map(str, error.unused_tokens or ()))}", ""
    return " ".join(str(error).split()).rstrip("."), ""


def _options(arguments: ArgumentCollection) -> list[str]:
    return [argument.name for argument in arguments if argument.name.startswith("--")]


def _missing(error: MissingArgumentError) -> list[str]:
    """Return every argument that a command needs and did not get; the parser names the first."""
    assert error.argument is not None
    found = error.app.assemble_argument_collection() if error.app is not None else ()
    given = {word.split("=")[0].replace("_", "-") for word in error.root_input_tokens or ()}
    required = [one for one in found if one.required and not given & set(one.names)]
    # What needs no option's name is taken first: where an option is missing, none of those is.
    first = error.argument.index is not None
    return [one.name for one in required if first or one.index is None] or [error.argument.name]
