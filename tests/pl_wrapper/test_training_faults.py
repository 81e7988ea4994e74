"""What goes wrong while a model is trained: signals, full disks, numbers that are not finite."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from no_time_to_train.distill.checkpoints import AtomicCheckpointIO
from no_time_to_train.errors import OutputError
from no_time_to_train.lightning_cli import main
from tests.pl_wrapper import test_distill_pl
from tests.pl_wrapper.test_distill_pl import ROOT, settings

pytestmark = test_distill_pl.pytestmark

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
    """torch's writer of zip files has an error of its own for a full disk, which names neither file nor fault."""
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


def test_a_training_that_diverges_keeps_the_last_good_checkpoint(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, scenes, max_steps=5, limit_val_batches=0)
    assert main(["fit", "--config", str(path)]) == 0
    last, student = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "student" / "model.safetensors"
    good = last.read_bytes(), student.read_bytes()
    capsys.readouterr()
    more = ["--trainer.max_steps", "10", "--model.optimizer.learning_rate", "1e38", "--ckpt_path", "last"]
    more += ["--trainer.gradient_clip_val", "null"]
    assert main(["fit", "--config", str(path), *more]) == 2
    assert re.search(r"diverged: model\..* holds NaN or Inf .*\(lower the learning rate", capsys.readouterr().err)
    assert (last.read_bytes(), student.read_bytes()) == good


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("weight_decay", ".nan", r"optimizer\.weight_decay is nan, expected 0 or more, and finite"),
        ("weight_decay", ".inf", r"optimizer\.weight_decay is inf"),
        ("learning_rate", "0", r"optimizer\.learning_rate is 0\.0, expected more than 0"),
    ],
)
def test_rates_that_make_no_sense(
    option: str, value: str, message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, scenes)
    assert main(["fit", "--config", str(path), f"--model.optimizer.{option}", value]) == 2
    assert re.search(message, capsys.readouterr().err)
