"""The main job in several processes: two in one folder, two as one, and those that others launch."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from no_time_to_train.batch.run_locks import sole_run
from no_time_to_train.cli.lightning.command import main
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.matching import MemoryBank
from tests.cli.lightning.runs import BASE, ROOT, one_error, read, run
from tests.tiny import TinyData, small_model_arguments, write_dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    # Lightning's own, which a caller cannot mend: workers are not worth their start for a handful of images.
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def test_a_second_run_into_the_same_folder_is_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would mix its overlays and results with the first one's."""
    first, second = tmp_path / "first", tmp_path / "second"
    with sole_run(first, "run_lightening.py", remedy=""):
        (first / "results.json").write_text("of the first run")
        assert run(*small, into=first) == 2
        assert re.search("another run_lightening.py is writing to .*first.*name another folder", one_error(capsys))
        assert (first / "results.json").read_text() == "of the first run"
        # A step that writes a memory elsewhere disturbs nothing.
        mode = ["--model.test_mode", "fill_memory", "--out_path", str(second / "memory.safetensors")]
        assert run(*small, *mode, into=first) == 0
    # Nor does a run that went wrong keep its folder.
    assert run(*small, "--data.references", str(tmp_path / "none.json"), into=second) == 2
    assert sorted(path.name for path in second.iterdir()) == ["memory.safetensors"]
    assert run(*small, into=first) == 0
    assert not list(first.glob(".*"))


def test_a_second_run_of_two_processes_is_refused(data: TinyData, sam2: Path, tmp_path: Path) -> None:
    with sole_run(tmp_path / "out", "run_lightening.py", remedy=""):
        done = run_two(data, sam2, tmp_path / "out")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: another run_lightening.py is writing to" in done.stderr
    assert "Traceback" not in done.stderr


def arguments_of(devices: int, data: TinyData, sam2: Path, folder: Path) -> list[str]:
    return [
        *("--config", str(BASE)),
        *(*small_model_arguments(sam2), *data.arguments, "--data.negative_references", str(data.negatives)),
        *("--model.model_cfg.sam2_infer_cfgs.points_per_side", "4", "--model.overlays", "0"),
        *("--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", str(devices), "--trainer.default_root_dir", str(folder)),
    ]


def run_two(data: TinyData, sam2: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the main job in two processes, of one thread each: sums over other numbers of threads differ."""
    command = [sys.executable, str(ROOT / "run_lightening.py"), *arguments_of(2, data, sam2, folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread, as each of several processes does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("targets", [5, 1])
def test_two_processes_equal_one(targets: int, sam2: Path, tmp_path: Path) -> None:
    """Any number of references and images: with one target, the second process gets none."""
    data = write_dataset(tmp_path / "data", shots=3 if targets == 5 else 1, targets=targets)
    assert main(arguments_of(1, data, sam2, tmp_path / "1")) == 0
    done = run_two(data, sam2, tmp_path / "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert read(tmp_path / "2" / "results.json") == read(tmp_path / "1" / "results.json")
    one, two = (read(tmp_path / devices / "metrics.json") for devices in ("1", "2"))
    for metrics in (one, two):
        assert metrics.pop("seconds_per_image") > 0
    assert one == two
    banks = [MemoryBank.load(tmp_path / devices / "memory.safetensors") for devices in ("1", "2")]
    assert torch.equal(banks[0].prototypes, banks[1].prototypes)


def test_bad_input_of_one_process_ends_both(sam2: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", shots=1, targets=4)
    # The second target is the second process's.
    (data.images / "004.jpg").write_text("no image")
    done = run_two(data, sam2, tmp_path / "out")
    errors = sorted(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 2
    assert len(errors) == 2
    assert "004.jpg" in errors[0]
    assert "has lost another one" in errors[1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


def test_real_weights_run_without_a_warning(
    sam2: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are there, in a full-size file, are loaded and nothing is said of random ones."""
    from no_time_to_train.encoders.torch_encoder import build_torch_encoder
    from no_time_to_train.proposers.sam2.predictor import build_sam2

    build_torch_encoder("dinov3_small", random_init=True).model.save_pretrained(tmp_path / "encoder")
    build_sam2(sam2, random_init=True).model.save_pretrained(tmp_path / "sam2")
    assert build_encoder_from_checkpoint(tmp_path / "encoder").config.name == "dinov3_small"
    args = ["--config", str(BASE), *data.arguments, "--model.model_cfg.encoder_cfg.name", "dinov3_small"]
    args += ["--model.model_cfg.encoder_cfg.img_size", "64", "--model.model_cfg.sam2_infer_cfgs.points_per_side", "4"]
    args += ["--model.model_cfg.encoder_ckpt_path", str(tmp_path / "encoder")]
    args += ["--model.model_cfg.sam2_cfg_file", str(tmp_path / "sam2"), "--model.model_cfg.sam2_ckpt_path", "null"]
    assert run(*args, into=tmp_path / "out") == 0
    assert read(tmp_path / "out" / "metrics.json")["random_weights"] == []
    assert "random" not in capsys.readouterr().out.lower()


def test_a_launched_process_ends_after_the_first_one(tmp_path: Path) -> None:
    """Lightning kills the first process when it sees that another one ended badly; torchrun does not launch like that.

    What launches has imported all that the launched process needs, and forks: it takes seconds.
    """
    first = """
import os, pathlib, sys, time
from no_time_to_train import lightning_cli
for launcher, more in ("lightning", {}), ("torchrun", {"TORCHELASTIC_RUN_ID": "x"}):
    ready, ended = (pathlib.Path(sys.argv[1], f"{launcher} {what}") for what in ("ready", "ended"))
    if os.fork() == 0:
        if os.fork() == 0:
            os.environ.update({"LOCAL_RANK": "1"} | more)
            ready.touch()
            lightning_cli._let_the_first_process_speak()
            ended.touch()
            os._exit(0)
        while not ready.exists():
            time.sleep(0.02)
        time.sleep(1.5)
        print(launcher, ended.exists(), flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", first, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["lightning False", "torchrun True"]
    for launcher in ("lightning", "torchrun"):
        for _ in range(100):
            if (tmp_path / f"{launcher} ended").exists():
                break
            time.sleep(0.1)
        assert (tmp_path / f"{launcher} ended").exists()


def test_parsing_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal at that moment would leave a child that complains of a closed pipe."""
    started = []
    start = subprocess.Popen.__init__

    def noted(self: Any, args: Any, *more: Any, **options: Any) -> None:
        started.append(args)
        start(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)
    monkeypatch.setattr("jsonargparse._stubs_resolver.stubs_resolver", None)  # made once in a process
    config = ROOT / "pl_configs" / "distill_quickstart.yaml"
    assert main(["fit", "--config", str(config), "--ckpt_path", str(tmp_path / "none.ckpt")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert started == []
