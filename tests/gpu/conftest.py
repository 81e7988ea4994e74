"""What needs a GPU; with NTT_TEST_DEVICE=cpu the same tests run without one, which shows that they can run."""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NAME = os.environ.get("NTT_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and skip them where there is no such device."""
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if NAME == "cuda" and not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture
def device() -> torch.device:
    return torch.device(NAME)
