"""What goes wrong while a model is trained: signals, full disks, numbers that are not finite."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from no_time_to_train.cli.lightning.command import main
from no_time_to_train.errors import OutputError
from no_time_to_train.training.checkpoints import AtomicCheckpointIO
from tests.training.distill import test_module
from tests.training.distill.test_module import ROOT, settings

pytestmark = test_module.pytestmark

# The second process waits for the first one, which writes the checkpoint, in a barrier.
STOPPING = """
import os, signal, time
from no_time_to_train.training.checkpoints import AtomicCheckpointIO

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


def test_no_room_for_tensorboard(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread of TensorBoard's writes its file, and its errors name none."""
    # The scenes are there then.
    assert main(["fit", "--config", str(settings(tmp_path / "first", scenes, max_steps=1, limit_val_batches=0))]) == 0
    board = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": str(tmp_path)}}
    path = settings(tmp_path / "run", scenes, logger=[None, board])
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # as little room as on a full disk
    try:
        assert main(["fit", "--config", str(path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = rf"error: \[Errno 27\] File too large: '{tmp_path}/lightning_logs/version_0' \(raise the limit that .*\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


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


def test_a_checkpoint_that_a_run_cannot_use_is_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, scenes, max_steps=5, limit_val_batches=1)
    assert main(["validate", "--config", str(path), "--ckpt_path", "last"]) == 2
    assert "there is no last checkpoint available. (name a file with --ckpt_path)" in capsys.readouterr().err
    assert main(["fit", "--config", str(path)]) == 0
    last, other = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "other.ckpt"
    whole, student = last.read_bytes(), (tmp_path / "student" / "model.safetensors").read_bytes()
    name = "model.embeddings.patch_embeddings.weight"

    def good() -> dict[str, Any]:
        content: dict[str, Any] = torch.load(last, weights_only=True)
        return content

    def changed(**changes: Any) -> None:
        torch.save({key: value for key, value in (good() | changes).items() if value != "left out"}, other)

    def weights(change: Callable[[Any], Any]) -> None:
        changed(state_dict=(state := good()["state_dict"]) | {name: change(state[name])})

    def moments(change: Callable[[Any], Any]) -> None:
        (state,) = good()["optimizer_states"]
        for one in state["state"].values():
            one["exp_avg"] = change(one["exp_avg"])
        changed(optimizer_states=[state])

    def fifo() -> None:
        other.unlink()
        os.mkfifo(other)

    both, training = ("fit", "validate"), ("fit",)
    for spoil, commands, message in (
        (lambda: other.write_bytes(_flipped(whole)), both, r"other\.ckpt is damaged: Bad CRC-32 .*\(name another one"),
        (lambda: weights(lambda own: own * torch.nan), both, f"{name} in the checkpoint holds NaN or Inf"),
        (
            lambda: weights(lambda own: own[:3]),
            both,
            rf"{name} in .* has the shape \[3, .*\], expected \[128, 3, 16, 16\]",
        ),
        (lambda: changed(optimizer_states=[]), training, "holds only weights"),
        (lambda: changed(loops="left out"), training, "holds only weights"),
        (lambda: moments(lambda own: own[:1]), training, r"exp_avg of the optimizer .* the shape \[1, "),
        (
            lambda: moments(lambda own: own * torch.nan),
            training,
            "exp_avg of the optimizer in the checkpoint holds NaN",
        ),
        (lambda: changed(loops={}), both, r"or of another run than this one: KeyError: '\w+_loop' \(name another one"),
        (lambda: changed(**{"pytorch-lightning_version": "left out"}), both, "is not a checkpoint of a training"),
        (lambda: changed(epoch="first"), both, "is not a checkpoint of a training"),
        (fifo, both, r"other\.ckpt is not a checkpoint, or not a whole one"),
    ):
        spoil()
        for command in commands:
            more = ["--trainer.max_steps", "6"] if command == "fit" else []
            assert main([command, "--config", str(path), "--ckpt_path", str(other), *more]) == 2, message
            assert re.search(message, capsys.readouterr().err), message
    for command, named in product(both, ("best", "hpc")):
        assert main([command, "--config", str(path), "--ckpt_path", named]) == 2
        assert "(name a file with --ckpt_path)" in capsys.readouterr().err
    assert (last.read_bytes(), (tmp_path / "student" / "model.safetensors").read_bytes()) == (whole, student)


def test_a_damaged_checkpoint_is_refused_without_a_plugin_too(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, scenes, max_steps=5, limit_val_batches=0, plugins=[])
    assert main(["fit", "--config", str(path)]) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(_flipped(last.read_bytes()))
    assert main(["fit", "--config", str(path), "--ckpt_path", "last"]) == 2
    assert "last.ckpt is damaged: Bad CRC-32" in capsys.readouterr().err


def _flipped(content: bytes) -> bytes:
    """Change one bit in the middle."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)
