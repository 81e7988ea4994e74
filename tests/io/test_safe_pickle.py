import collections
import contextlib
import os
import pickle
import pickletools
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from no_time_to_train.errors import AnnotationError, DataNotFoundError, NoTimeToTrainError
from no_time_to_train.io.safe_pickle import MAX_BYTES, read_plain_pickle


class Asks:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def read(content: bytes, folder: Path) -> Any:
    path = folder / "refs.pkl"
    path.write_bytes(content)
    return read_plain_pickle(path)


PLAIN = {1: [{"img_id": 5, "ann_ids": [7, 2**40, -3]}], 2: [(6, [8])], "x": {"a": 1.5, "b": None, "c": True, "d": "é"}}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_they_are(tmp_path: Path, protocol: int) -> None:
    shared = [1, 2]
    content = {**PLAIN, 3: [shared, shared], 4: ()}
    assert read(pickle.dumps(content, protocol), tmp_path) == content


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ordered_dicts_are_read_as_dicts(tmp_path: Path, protocol: int) -> None:
    content = collections.OrderedDict([(5, [{"img_id": 1, "ann_ids": [2]}]), (1, [])])
    got = read(pickle.dumps(content, protocol), tmp_path)
    assert type(got) is dict
    assert list(got.items()) == list(content.items())


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "<i4", ">u4", "<i8", ">i8", "<u8"])
def test_numpy_integers_become_integers(tmp_path: Path, dtype: str) -> None:
    scalars = np.array([1, 100, 0], dtype=dtype)
    scalars[2] = np.iinfo(dtype).min
    got = read(pickle.dumps(list(scalars)), tmp_path)
    assert got == scalars.tolist()
    assert {type(value) for value in got} == {int}


def test_numpy_integers_of_numpy_1_become_integers(tmp_path: Path) -> None:
    content = pickle.dumps(np.int64(300), 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read(content, tmp_path) == 300


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_pickle_asks_to_run_is_not_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    content = pickle.dumps({1: Asks(os.system, f"touch {proof}")}, protocol)
    with pytest.raises(AnnotationError, match=r"refs\.pkl was not loaded: it asks for (posix|nt)\.system, which"):
        read(content, tmp_path)
    assert not proof.exists()
    pickle.loads(content)  # The same bytes do run where they are let.
    assert proof.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Asks(eval, "1"), "builtins.eval"),
        (Asks(getattr, 1, "real"), "builtins.getattr"),
        (Asks(collections.defaultdict, list), "collections.defaultdict"),
        (Path("x"), "pathlib"),
        (np.zeros(3, np.int64), "the opcode BYTEARRAY8"),
        (np.float64(1), "'f8', which is not an integer"),
        (np.bool_(True), "'b1', which is not an integer"),
        ({1, 2}, "EMPTY_SET"),
        (frozenset({1}), "FROZENSET"),
        (bytearray(b"x"), "BYTEARRAY8"),
        (1j, "builtins.complex"),
        (2**64, "more than 64 bits"),
        (1 << 5000, "LONG4"),
        (Asks(collections.OrderedDict, [(1, 2)]), "fills an OrderedDict by a call"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, value: Any, named: str) -> None:
    with pytest.raises(AnnotationError, match="was not loaded: ") as caught:
        read(pickle.dumps({1: value}, 5), tmp_path)
    assert named in str(caught.value)
    assert "COCO JSON subset" in caught.value.remedy


def test_stand_ins_cannot_be_changed(tmp_path: Path) -> None:
    for name in (b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n"):
        for state in ({"__call__": 1}, (None, {"__call__": 1, "__doc__": "changed"})):
            with pytest.raises(AnnotationError):
                read(name + pickle.dumps(state, 0)[:-1] + b"b.", tmp_path)
    assert read(pickle.dumps(collections.OrderedDict(a=np.int8(1))), tmp_path) == {"a": 1}


def doubled(times: int, again: bytes = b"") -> bytes:
    """A tuple of twice a tuple of twice a tuple ..., which takes 2 ** times steps to hash, as the key of a dict."""
    steps = [b"K\x01\x85" + again + b"q\x00", *[b"h\x00h\x00\x86" + again + b"q\x00"] * times]
    return b"\x80\x04" + b"".join(steps) + b"}h\x00K\x01s."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (doubled(60), "the same tuple in two places"),
        (doubled(60, b"q\x01"), "the same tuple in two places"),
        (doubled(60, b"\x80\x04"), "the same tuple in two places"),
        (doubled(60, b"\x95" + bytes(8)), "the same tuple in two places"),
        (doubled(60, b"N0"), "the opcode POP"),
        (b"\x80\x04}2s.", "the opcode DUP"),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "uses entry 2147483647 of a memo of 0"),
        (b"]p2147483647\n.", "uses entry 2147483647 of a memo of 0"),
        (b"\x80\x04" + b"}" * 4_000_001 + b".", "more than 4000000 opcodes"),
        (b"\x80\x04P1\n.", "opcode"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    ],
)
def test_bombs_are_refused_at_once(tmp_path: Path, content: bytes, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(AnnotationError, match=message):
        read(content, tmp_path)
    assert time.perf_counter() - start < 30


def test_the_tuple_bomb_would_work(tmp_path: Path) -> None:
    assert hash(next(iter(pickle.loads(doubled(3))))) == hash(((((1,),) * 2,) * 2,) * 2)
    assert sum(opcode.name == "TUPLE2" for opcode, _, _ in pickletools.genops(doubled(3))) == 3


def test_deep_nesting_does_not_overflow_the_stack(tmp_path: Path) -> None:
    got = read(b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".", tmp_path)
    assert len(got) == 1
    while got:  # Taken apart from the outside, since freeing it at once is deep as well.
        got = got.pop()


def test_a_file_of_more_than_64_mib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.pkl"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AnnotationError, match="has 64 MiB, expected a pickle of at most 64 MiB"):
        read_plain_pickle(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x04", b"\x80\x04.", b"\x80\xff}.", b"\x80\x04X" + struct.pack("<I", 2**31) + b"a", b"\x93."],
)
def test_what_is_no_pickle_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AnnotationError, match=r"refs\.pkl (is not a complete pickle|was not loaded)"):
        read(content, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no reference file at .*gone\.pkl"):
        read_plain_pickle(tmp_path / "gone.pkl")


CONTENTS = [pickle.dumps(collections.OrderedDict({**PLAIN, "n": np.int64(3)}), protocol) for protocol in (0, 2, 5)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CONTENTS), st.data())
def test_no_bytes_raise_anything_else(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NoTimeToTrainError):
        read(bytes(changed), tmp_path)
