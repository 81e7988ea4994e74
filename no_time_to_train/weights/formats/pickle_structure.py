"""The structure of a pickle: its containers and values, with the names and calls in it left as they are.

Nothing that a pickle names is imported or called, so that reading one can run nothing.
"""

import itertools
import pickletools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.errors import UnsafeWeightsError

# What torch.load(weights_only=True) lets a pickle name.
_KNOWN = re.compile(
    r"torch\.(cuda\.)?\w+(Storage|Tensor)|torch\.storage\.(Untyped|Typed)Storage|torch\.(Size|device|Tensor)"
    r"|torch\.(u?int\d+|b?float\d\w*|complex\d+|bool|q?u?int\dx?\w*|per_\w+)|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
)
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_MADE: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list},
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(str):
    """A class or function that a pickle names."""

    __slots__ = ()


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for."""

    name: Name
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class Persistent:
    """What a pickle refers to outside of itself, such as a storage."""

    identity: tuple[Any, ...]


def evaluate(stream: Any, file: Path, references: list[Persistent] | None = None) -> Any:
    """Evaluate a pickle up to its end; the names and calls in it stay what they are.

    Args:
        stream: What to read it from; left after the end of the pickle.
        file: For messages.
        references: Takes up what it refers to outside of itself.

    Raises:
        UnsafeWeightsError: It names more than tensors and plain containers.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped() -> list[Any]:
        begin = marks.pop()
        items = stack[begin:]
        del stack[begin:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _MADE:
                stack.append(_MADE[name]())
            case "MARK":
                marks.append(len(stack))
            case name if name in _TUPLES:
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            case "TUPLE":
                stack.append(tuple(popped()))
            case "APPEND" | "APPENDS" | "ADDITEMS" as name:
                items = [stack.pop()] if name == "APPEND" else popped()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else popped()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_checked_name(argument.replace(" ", "."), file))
            case "STACK_GLOBAL":
                parts = [stack.pop(-2), stack.pop()]
                stack.append(_checked_name(".".join(parts), file))
            case "REDUCE" | "NEWOBJ":
                function, arguments = stack.pop(-2), stack.pop()
                if function == "collections.OrderedDict":
                    stack.append({})
                    _set_items(stack[-1], [item for pair in itertools.chain(*arguments) for item in pair])
                elif isinstance(function, Name) and isinstance(arguments, tuple):
                    stack.append(Call(function, arguments))
                else:
                    raise ValueError("it calls what is not a function")
            case "BUILD":
                stack.pop()  # the attributes of what it builds
            case "BINPERSID":
                stack.append(Persistent(stack.pop()))
                if references is not None:
                    references.append(stack[-1])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name:
                raise _asks_for_more(f"the opcode {name}", file)
    return stack.pop()


def _checked_name(name: str, file: Path) -> Name:
    if not _KNOWN.fullmatch(name):
        raise _asks_for_more(f"GLOBAL {name}", file)
    return Name(name)


def _asks_for_more(what: str, file: Path) -> UnsafeWeightsError:
    return UnsafeWeightsError(
        f"{file} is a pickle that asks for more than tensors, so it was not loaded: {what:.200}",
        remedy="export the plain state dict with torch.save(model.state_dict(), ...), or use safetensors",
    )


def _set_items(container: Any, items: Sequence[Any]) -> None:
    """Set items of a dict. Keys that are not plain are not hashed, nor told: of nested tuples that can take years."""
    if isinstance(container, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            container[str(key) if isinstance(key, (str, int, float)) else object()] = value
