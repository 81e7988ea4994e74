import pytest
import torch

from no_time_to_train.matching.threads import one_thread


@one_thread()
def fail() -> None:
    raise ValueError(torch.get_num_threads())


def test_the_number_of_threads_comes_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=r"^1$"):
        fail()
    assert torch.get_num_threads() == before
