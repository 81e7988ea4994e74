import multiprocessing
from pathlib import Path
from typing import Any

import torch.distributed

from no_time_to_train.distributed import gather_objects


def test_alone_it_is_a_list_of_one() -> None:
    assert gather_objects({"a": 1}) == [{"a": 1}]


def gather_in(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    # Of different sizes, one of them empty.
    gathered: list[Any] = gather_objects([torch.full((3,), 7.0)] * rank)
    torch.save(gathered, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_get_all_values_in_the_order_of_ranks(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=gather_in, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert first == []
        assert torch.equal(second[0], torch.full((3,), 7.0))
