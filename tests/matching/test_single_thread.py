import re
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from no_time_to_train.matching.single_thread import single_threaded

USUAL = 3


@pytest.fixture(autouse=True)
def several() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(USUAL)
    yield
    torch.set_num_threads(before)


@single_threaded()
def fail() -> None:
    raise ValueError(torch.get_num_threads())


def in_new_thread(function: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(10)
    return results[0]


def test_the_number_of_threads_comes_back() -> None:
    with pytest.raises(ValueError, match=r"^1$"):
        fail()
    assert torch.get_num_threads() == USUAL
    with single_threaded():
        with single_threaded():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == USUAL


def test_a_thread_that_starts_meanwhile_has_the_usual_number() -> None:
    with single_threaded():
        assert in_new_thread(torch.get_num_threads) == USUAL
    assert in_new_thread(torch.get_num_threads) == USUAL


def test_a_threads_first_use_of_torch() -> None:
    def first_use() -> tuple[int, int]:
        with single_threaded():
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    assert in_new_thread(first_use) == (1, USUAL)


def test_threads_that_overlap_keep_their_own_numbers() -> None:
    """The first to enter leaves first."""
    entered, left = threading.Barrier(2, timeout=10), threading.Event()
    numbers: dict[str, list[int]] = {"first": [], "second": []}

    def overlap(name: str, own: int) -> None:
        torch.set_num_threads(own)
        with single_threaded():
            entered.wait()
            if name == "second":
                left.wait(10)
            numbers[name].append(torch.get_num_threads())
        numbers[name].append(torch.get_num_threads())
        left.set()

    threads = [threading.Thread(target=overlap, args=entry) for entry in (("first", 2), ("second", 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert numbers == {"first": [1, 2], "second": [1, 4]}
    assert torch.get_num_threads() == USUAL


@pytest.mark.skipif("mkl_get_max_threads" not in torch.__config__.parallel_info(), reason="this torch has no MKL")
def test_mkls_products_are_single_threaded_too() -> None:
    def threads_of_mkl() -> int:
        match = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
        assert match
        return int(match[1])

    assert threads_of_mkl() == USUAL
    with single_threaded():
        assert threads_of_mkl() == 1
        assert in_new_thread(lambda: torch.get_num_threads() and threads_of_mkl()) == USUAL
    assert threads_of_mkl() == USUAL
