"""Reading a pickle of plain values without running what it asks for.

Python's unpickler can be told which names a pickle may use, and here that is next to none. Names are not the only
danger: a small pickle can also ask for gigabytes, or for the hash of a tuple of tuples of tuples that takes years. So
the opcodes are looked through first, and only those go on that plain values need.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from no_time_to_train.errors import AnnotationError, DataNotFoundError

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000  # About ten to a reference; more would take minutes or gigabytes before anything is said.
_REMEDY = "use a COCO JSON subset instead, or save the pickle anew from plain dicts, lists and integers"

_NO_OPERATION = {"PROTO", "FRAME"}
_STRUCTURE = {"STOP", "MARK"}
_INTEGERS = {"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1"}
_SCALARS = _INTEGERS | {"NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"}
_TEXT = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_CONTAINERS = {"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_NAMES = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
_ALLOWED = _NO_OPERATION | _STRUCTURE | _SCALARS | _TEXT | _TUPLES | _CONTAINERS | _PUTS | _GETS | _NAMES


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

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _RefusedError(f"it asks for {module}.{name}, which is neither a plain container nor a number")
        return stand_in


class _OrderedDict:
    """Stands in for collections.OrderedDict. Like the others it has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> dict[Any, Any]:
        if arguments:
            raise _RefusedError("it fills an OrderedDict by a call")  # Python 3 fills it item by item.
        return {}


class _IntegerType:
    """Stands in for a numpy dtype, for integers only."""

    __slots__ = ("big_endian", "signed", "size")

    def __init__(self, code: Any) -> None:
        if code not in [kind + size for kind in "iu" for size in "1248"]:
            raise _RefusedError(f"it asks for numpy's type {code!r:.40}, which is not an integer")
        self.size = int(code[1])
        self.signed = code[0] == "i"
        self.big_endian = False

    def __setstate__(self, state: Any) -> None:
        self.big_endian = state[1] == ">"


class _NumpyDtype:
    """Stands in for numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _IntegerType:
        return _IntegerType(code)


class _NumpyScalar:
    """Stands in for numpy's constructor of scalars."""

    __slots__ = ()

    def __call__(self, kind: Any, data: Any) -> int:
        if not isinstance(kind, _IntegerType) or not isinstance(data, bytes) or len(data) != kind.size:
            raise _RefusedError("it holds a numpy scalar that is not an integer")
        return int.from_bytes(data, "big" if kind.big_endian else "little", signed=kind.signed)


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _OrderedDict(),
    ("numpy", "dtype"): _NumpyDtype(),
    ("numpy.core.multiarray", "scalar"): _NumpyScalar(),  # numpy 1
    ("numpy._core.multiarray", "scalar"): _NumpyScalar(),  # numpy 2
}
