"""Reading a pickle of plain values without running what it asks for.

Python's unpickler can be told which names a pickle may use, and here that is next to none. Names are not the only
danger: a small pickle can also ask for gigabytes, or for the hash of a tuple of tuples of tuples that takes years. So
the opcodes are looked through first, and only those go on that plain values need.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from no_time_to_train.errors import AnnotationError, DataNotFoundError

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000  # About ten to a reference; more would take minutes or gigabytes before anything is said.
_REMEDY = "use a COCO JSON subset instead, or save the pickle anew from plain dicts, lists and integers"

_NO_OPERATION = {"PROTO", "FRAME"}
_INTEGERS = {"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_OTHERS = """
STOP MARK NONE NEWTRUE NEWFALSE FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES
EMPTY_TUPLE EMPTY_LIST EMPTY_DICT LIST DICT APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_ALLOWED = {*_NO_OPERATION, *_INTEGERS, *_TUPLES, *_PUTS, *_GETS, *_OTHERS.split()}


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, numbers and text; nothing in it is run.

    ``OrderedDict`` becomes a dict, and numpy's integers become int, neither by calling what the pickle names.

    Args:
        path: The file, of at most 64 MiB.

    Raises:
        DataNotFoundError: There is no such file.
        AnnotationError: The file is not a pickle, or too large, or asks for anything else; the message names it.
    """
    if not path.is_file():
        raise DataNotFoundError(f"no reference file at {path}", remedy="check the path")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise AnnotationError(
            f"{path} has {size / 2**20:.0f} MiB, expected a pickle of at most {MAX_BYTES // 2**20} MiB", remedy=_REMEDY
        )
    data = path.read_bytes()
    try:
        _check_opcodes(data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except _RefusedError as refused:
        raise AnnotationError(f"{path} was not loaded: {refused}", remedy=_REMEDY) from None
    except Exception as error:  # A broken pickle can raise anything that its opcodes can.
        raise AnnotationError(f"{path} is not a complete pickle: {error!r:.200}", remedy=_REMEDY) from error


class _RefusedError(Exception):
    """What the pickle asks for and does not get."""


def _check_opcodes(data: bytes) -> None:
    """Refuse what plain values do not need, in one pass over the opcodes.

    A tuple may not be fetched from the memo: each then stands in one place only, and hashing one takes no longer than
    the file is long. Integers have at most 64 bits, of which few share a hash. Numbers of the memo may not run ahead,
    since the memo is an array of that length.
    """
    tuples: set[int] = set()
    memoized = 0
    makes_top = ""  # The last opcode that changed what is on top of the stack.
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in _ALLOWED:
            raise _RefusedError(f"it uses the opcode {name}, which plain values do not need")
        if count == MAX_OPCODES:
            raise _RefusedError(f"it has more than {MAX_OPCODES} opcodes")
        if name in _PUTS:
            number = memoized if name == "MEMOIZE" else int(argument)
            if number > count:
                raise _RefusedError(f"it uses entry {number} of a memo of {memoized}")
            memoized += 1
            if makes_top in _TUPLES:
                tuples.add(number)
            else:
                tuples.discard(number)
        elif name not in _NO_OPERATION:
            makes_top = name
        if name in _GETS and int(argument) in tuples:
            raise _RefusedError("it uses the same tuple in two places")
        if name in _INTEGERS and not -(2**63) <= argument < 2**64:
            raise _RefusedError("it holds an integer of more than 64 bits")


class _PlainUnpickler(pickle.Unpickler):
    """Hands out stand-ins of this module for the few names that plain values come with."""

    def find_class(self, module: str, name: str) -> type:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _RefusedError(f"it asks for {module}.{name}, which is neither a plain container nor a number")
        return stand_in


# A pickle sets the attributes of what has no `__setstate__`; the classes themselves must stay as they are.


class _OrderedDict:
    """Stands in for collections.OrderedDict."""

    __setstate__ = None

    def __new__(cls, *arguments: Any) -> dict[Any, Any]:  # type: ignore[misc] # a plain value in its place
        if arguments:
            raise _RefusedError("it fills an OrderedDict by a call")  # Python 3 fills it item by item.
        return {}


class _IntegerType:
    """Stands in for numpy.dtype, for integers only."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in [kind + size for kind in "iu" for size in "1248"]:
            raise _RefusedError(f"it asks for numpy's type {code!r:.40}, which is not an integer")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _NumpyScalar:
    """Stands in for numpy's constructor of scalars."""

    __setstate__ = None

    def __new__(cls, kind: Any, data: Any) -> int:  # type: ignore[misc] # a plain value in its place
        if not isinstance(kind, _IntegerType) or not isinstance(data, bytes) or len(data) != int(kind.code[1]):
            raise _RefusedError("it holds a numpy scalar that is not an integer")
        return int.from_bytes(data, "big" if kind.order == ">" else "little", signed=kind.code[0] == "i")


_STAND_INS: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("numpy", "dtype"): _IntegerType,
    ("numpy.core.multiarray", "scalar"): _NumpyScalar,  # numpy 1
    ("numpy._core.multiarray", "scalar"): _NumpyScalar,  # numpy 2
}
