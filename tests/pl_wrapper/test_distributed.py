import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed

from no_time_to_train.errors import ProcessLostError
from no_time_to_train.pl_wrapper.distributed import gather_objects


def test_alone_it_is_a_list_of_one() -> None:
    assert gather_objects({"a": 1}) == [{"a": 1}]


def gather_in(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    # Of different sizes, one of them empty.
    gathered: list[Any] = gather_objects([torch.full((3,), 7.0)] * rank)
    torch.save(gathered, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def gather_nothing_in(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gather_objects(None if rank else "something"), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def lose_the_other(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    gather_objects(rank)
    if rank == 0:
        try:
            gather_objects(rank)
        except ProcessLostError as error:
            Path(f"{folder}/message").write_text(str(error))
    # Without the goodbyes that a broken group would wait for.
    os._exit(0)


def run_two(target: Callable[[int, str], None], folder: Path) -> list[int | None]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def test_processes_get_all_values_in_the_order_of_ranks(tmp_path: Path) -> None:
    assert run_two(gather_in, tmp_path) == [0, 0]
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert first == []
        assert torch.equal(second[0], torch.full((3,), 7.0))


def test_none_is_a_value_too(tmp_path: Path) -> None:
    assert run_two(gather_nothing_in, tmp_path) == [0, 0]
    assert [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)] == [["something", None]] * 2


def test_a_lost_process_is_told(tmp_path: Path) -> None:
    assert run_two(lose_the_other, tmp_path) == [0, 0]
    assert "process 0 has lost another one" in (tmp_path / "message").read_text()
