"""Fixtures for all tests: the network is closed, and thread counts are fixed."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

# Weights are looked for below the working directory, never in the folder of whoever runs the tests.
os.environ["NTT_HOME"] = "."
# As the package does, for tests that import onnxruntime before it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# XLA's optimizer takes half of the time of tests that compile, and is not what they are about; see `optimized`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

HERE = Path(__file__).parent
DATA = HERE / "data"

# Folders and files most of whose tests start processes, train, or run whole commands: `make test-fast` leaves them out.
SLOW = (
    "bad_inputs",
    "batch",
    "cli",
    "clients",
    "docs",
    "export",
    "fuzz",
    "gpu",
    "kills",
    "parity",
    "pl_wrapper",
    "safety",
    "encoders/test_conversion.py",
    "encoders/test_onnx_encoder.py",
    "io/test_old_import_paths.py",
    "io/test_process.py",
    "io/test_process_streams.py",
    "jax_models/test_load.py",
    "models/test_another_promptable.py",
    "models/test_feature_cache.py",
    "models/test_feature_cache_faults.py",
    "models/test_published_whole.py",
    "proposers/test_sam2.py",
    "test_fidelity.py",
    "test_gpu_benchmark.py",
    "test_segmenter.py",
    "training",
    "weights/test_conversion.py",
    "weights/test_eqx.py",
    "weights/test_fetch_faults.py",
    "weights/test_fetch_secrets.py",
    "weights/test_without_torch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow."""
    for item in items:
        if HERE in item.path.parents:
            name = item.path.relative_to(HERE)
            if {str(name), *map(str, name.parents)} & set(SLOW):
                item.add_marker(pytest.mark.slow)


if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a core: threads of one, and of the processes that it starts, would wait for those of the others.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or str(address[0]) in {"127.0.0.1", "::1", "localhost"}
        if not local:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run every test in an empty folder: weights are looked for under checkpoints/, and a developer may have some."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers, whatever ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let all workers of a run share the programs that JAX compiles, which take more time than what they compute.

    Processes that tests start have no part in it: they may be killed while they write.
    """
    jax = sys.modules.get("jax")
    if jax is None or jax.config.jax_compilation_cache_dir:
        return
    run = tmp_path_factory.getbasetemp()
    folder = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # With a limit the folder is locked while a worker reads or writes.
    jax.config.update("jax_compilation_cache_max_size", 1 << 30)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile with XLA's optimizer, as users do."""
    from jax import config

    config.update("jax_disable_most_optimizations", False)  # type: ignore[no-untyped-call] # of JAX
    yield
    config.update("jax_disable_most_optimizations", True)  # type: ignore[no-untyped-call] # of JAX


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Let wrong shapes through to the code that refuses them, past the check of annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
