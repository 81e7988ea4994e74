"""What goes wrong while a model is trained: signals, full disks, numbers that are not finite."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from no_time_to_train.distill.checkpoints import AtomicCheckpointIO
from no_time_to_train.errors import OutputError
from tests.pl_wrapper.test_distill_pl import ROOT, settings

# The second process waits for the first one, which writes the checkpoint, in a barrier.
STOPPING = """
import os, signal, time
from no_time_to_train.distill.checkpoints import AtomicCheckpointIO

class Stopping(AtomicCheckpointIO):
    def save_checkpoint(self, *args, **more):
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        super().save_checkpoint(*args, **more)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "scenes"


def test_a_training_of_two_processes_is_stopped_by_a_signal(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "stopping.py").write_text(STOPPING)
    stopping = [{"class_path": "stopping.Stopping"}]
    path = settings(tmp_path / "run", scenes, devices=2, strategy="ddp", limit_val_batches=0, plugins=stopping)
    command = [sys.executable, "run_lightening.py", "fit", "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(process.communicate()[1])
    assert process.returncode == 143, err
    assert err.count("stopped by SIGTERM") == 1
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    """torch's writer of zip files has an error of its own for a full disk, which names neither the file nor the fault."""
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"the last one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (1000, 300_000):
        checkpoint = {"state_dict": {str(index): torch.zeros(size) for index in range(1_000_000 // size)}}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as little room as on a full disk
        try:
            with pytest.raises(OutputError, match=r"cannot write .*last\.ckpt: File too large \(raise the limit"):
                AtomicCheckpointIO().save_checkpoint(checkpoint, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("last.ckpt", b"the last one")]
