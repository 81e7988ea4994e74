"""Threads that compute for the prompt decoder: order, failures, what they leave of torch's settings, forks."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from no_time_to_train.proposers.sam2.worker_threads import map_in_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_that_compute_alone() -> None:
    together = threading.Barrier(3)

    def function(item: int) -> tuple[int, int, str]:
        if item < 3:
            together.wait(timeout=30)  # nobody passes if they come one after the other
        return item, torch.get_num_threads(), threading.current_thread().name

    numbers, shares, names = zip(*map_in_threads(function, range(20)), strict=True)
    assert numbers == tuple(range(20))
    assert set(shares) == {1}
    assert len(set(names)) == 3
    assert threading.main_thread().name not in names


def test_threads_share_out_those_of_torch() -> None:
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(2))) == {1}
    torch.set_num_threads(7)
    assert list(map_in_threads(lambda _: torch.get_num_threads(), range(2))) == [3, 3]


def test_torch_computes_elsewhere_with_as_many_threads_as_before() -> None:
    results = map_in_threads(lambda item: item, range(5))
    assert next(results) == 0
    seen: list[int] = []
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert [*seen, torch.get_num_threads()] == [3, 3]
    results.close()


@pytest.mark.parametrize(("items", "threads"), [(1, 3), (4, 1), (0, 3)])
def test_nothing_to_share_out_is_done_at_once(items: int, threads: int) -> None:
    torch.set_num_threads(threads)
    found = list(map_in_threads(lambda _: threading.current_thread(), range(items)))
    assert found == [threading.current_thread()] * items


def test_a_failure_is_the_callers_and_ends_the_threads() -> None:
    def function(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    results = map_in_threads(function, range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert _workers() == []


def test_what_nobody_waits_for_is_not_computed() -> None:
    computed: list[int] = []
    results = map_in_threads(computed.append, range(1000))
    next(results)
    results.close()
    assert len(computed) < 10
    assert _workers() == []


def test_an_interrupt_ends_the_threads() -> None:
    results = map_in_threads(lambda item: item, range(1000))
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    assert _workers() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# JAX warns of every fork, if another test has imported it.
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_process_has_its_own_threads() -> None:
    assert list(map_in_threads(lambda item: item, range(9))) == list(range(9))
    child = os.fork()
    if child == 0:
        # Nothing of torch's is computed: its own threads do not survive a fork.
        os._exit(0 if list(map_in_threads(lambda item: item, range(9))) == list(range(9)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prompts")]
