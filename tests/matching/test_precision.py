"""The precision of matching, whatever the process has been told."""

import threading
from collections.abc import Iterator

import pytest
import torch

from no_time_to_train.matching.precision import backends, full_precision


def _settings() -> list[str]:
    return [backend.fp32_precision for backend in backends()]


@pytest.fixture
def reduced() -> Iterator[list[str]]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield _settings()
    torch.set_float32_matmul_precision(before)


def test_float32_is_multiplied_as_float32(reduced: list[str]) -> None:
    assert set(reduced) == {"tf32", "bf16"}
    with full_precision():
        with full_precision():
            assert _settings() == ["ieee", "ieee"]
        assert _settings() == ["ieee", "ieee"]
    assert _settings() == reduced
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert _settings() == reduced
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_do_not_restore_under_each_other(reduced: list[str]) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with full_precision():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with full_precision():
        go_on.set()
        thread.join()
        assert _settings() == ["ieee", "ieee"]
    assert _settings() == reduced


def test_autocast_is_off() -> None:
    with torch.autocast("cpu", torch.bfloat16), full_precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
