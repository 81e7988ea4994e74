"""Distillation through the command line: it learns, resumes exactly, survives being killed; what it leaves is used."""

import csv
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main
from no_time_to_train.encoders.torch_encoder import build_encoder, build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.training.checkpoints import AtomicCheckpointIO
from no_time_to_train.training.distill.module import DistillationModule
from no_time_to_train.weights.license import NOTICE_FILE

ROOT = Path(__file__).parents[3]
TEACHER = ROOT / "checkpoints" / "quickstart" / "encoder"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*tensorboard:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "scenes"


def settings(folder: Path, scenes: Path, *, keep: tuple[str, ...] = ("ModelCheckpoint",), **trainer: Any) -> Path:
    """Write a short training like the shipped one; `keep` names the callbacks that stay."""
    shipped = (ROOT / "pl_configs" / "distill_quickstart.yaml").read_text()
    config = yaml.safe_load(shipped.replace("runs/distill_quickstart", str(folder)))
    config["model"]["init_args"]["teacher"]["ckpt_path"] = str(TEACHER)
    config["model"]["init_args"]["optimizer"]["warmup_steps"] = 4
    config["data"]["init_args"] |= {"scenes": str(scenes), "num_scenes": 56, "num_val": 8, "batch_size": 4}
    config["data"]["init_args"]["views"]["size"] = 64
    config["trainer"] |= {"max_steps": 16, "val_check_interval": 8, "log_every_n_steps": 1, "precision": "32-true"}
    config["trainer"] |= {"enable_progress_bar": False, "num_sanity_val_steps": 0} | trainer
    config["trainer"]["logger"] = config["trainer"]["logger"][1:]
    callbacks = [part for part in config["trainer"]["callbacks"] if part["class_path"].endswith(keep)]
    for part in callbacks:
        if part["class_path"].endswith("ModelCheckpoint"):
            part["init_args"] |= {"every_n_train_steps": 5, "save_top_k": -1}
    config["trainer"]["callbacks"] = callbacks
    path = folder / "settings.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def logged(folder: Path, name: str) -> dict[int, float]:
    """Return what was logged, by step, over all runs in a folder."""
    values: dict[int, float] = {}
    for path in sorted(folder.rglob("metrics.csv")):
        with path.open(newline="") as stream:
            values |= {int(row["step"]): float(row[name]) for row in csv.DictReader(stream) if row.get(name)}
    return values


def test_the_whole_way(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All callbacks of the shipped YAML; then the student is converted, exported, compared and matched with."""
    callbacks = (
        "ModelCheckpoint",
        "EMAWeightAveraging",
        "OnnxExportCallback",
        "FeatureParityCallback",
        "FeaturePictures",
    )
    path = settings(tmp_path, scenes, keep=callbacks, precision="bf16-mixed", max_steps=60, val_check_interval=30)
    config = yaml.safe_load(path.read_text())
    for part in config["trainer"]["callbacks"]:
        if part["class_path"].endswith("FeatureParityCallback"):
            part["init_args"] = {"on_failure": "raise"}
        if part["class_path"].endswith("FeaturePictures"):
            part["init_args"] = {"every_n_steps": 20}
        if part["class_path"].endswith("ModelCheckpoint"):
            part["init_args"] |= {"every_n_train_steps": 30, "save_top_k": 1}
        if part["class_path"].endswith("EMAWeightAveraging"):
            part["init_args"] = {"decay": 0.8}
    path.write_text(yaml.safe_dump(config))
    assert main(["validate", "--config", str(path)]) == 0
    assert main(["fit", "--config", str(path)]) == 0
    cosines = logged(tmp_path, "val/patch_cosine")
    assert cosines.keys() == {0, 29, 59}
    assert cosines[59] - cosines[0] > 0.3
    assert cosines[59] > cosines[29]
    losses = logged(tmp_path, "train/loss")
    assert losses[59] < 0.7 * losses[0]
    assert {"train/cls", "train/patches", "train/gram"} <= _columns(tmp_path)
    assert set(logged(tmp_path, "parity/torch-onnx/max_abs")) == {0, 29, 59}
    pictures = sorted((tmp_path / "features").iterdir())
    assert [picture.name for picture in pictures] == [f"step_{step:07d}.png" for step in (20, 40, 60)]
    with Image.open(pictures[0]) as image:
        assert image.size == (3 * 224, 4 * 224)

    # What was exported are the averaged weights that the checkpoint and the folder at the end hold.
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    exported = checkpoint.with_name("last-onnx")
    pixels = torch.randn(1, 3, 64, 64)
    by_checkpoint, by_folder = (build_encoder_from_checkpoint(one) for one in (checkpoint, tmp_path / "student"))
    by_file = build_encoder(f"onnx:{exported}")
    with torch.inference_mode():
        assert torch.equal(by_checkpoint.tokens(pixels), by_folder.tokens(pixels))
        assert (by_file.tokens(pixels) - by_checkpoint.tokens(pixels)).abs().max() < 1e-4
    state = torch.load(checkpoint, weights_only=False)
    assert not any("teacher" in name for name in state["state_dict"])
    assert any(
        not torch.equal(value, state["current_model_state"][name]) for name, value in state["state_dict"].items()
    )
    assert "metrics" in read_onnx_file(exported).metadata
    assert ntt(["compare", "--weights", str(tmp_path / "student"), "--onnx", str(exported), "--image-size", "64"]) == 0
    assert ntt(["convert", str(checkpoint), str(tmp_path / "hf"), "--to", "hf"]) == 0
    capsys.readouterr()
    student = build_torch_encoder("dinov3_quickstart_tiny", tmp_path / "hf")
    with torch.inference_mode():
        assert torch.equal(student.tokens(pixels), by_folder.tokens(pixels))
    for folder in (tmp_path / "hf", exported, tmp_path / "student"):  # the quickstart teacher is this project's own
        assert not (folder / NOTICE_FILE).exists()

    matching = yaml.safe_load((ROOT / "pl_configs" / "quickstart.yaml").read_text())
    model = matching["model"]["init_args"]["model_cfg"]
    assert model["encoder_cfg"]["name"] == "dinov3_quickstart"
    model["encoder_cfg"]["name"] = "dinov3_quickstart_tiny"
    model["encoder_ckpt_path"] = str(tmp_path / "hf")
    model["sam2_cfg_file"] = str(ROOT / model["sam2_cfg_file"])
    matching["data"]["init_args"] |= {"root": str(tmp_path / "shapes"), "num_targets": 2, "shots": 1}
    matching["trainer"] |= {"default_root_dir": str(tmp_path / "matched")}
    (tmp_path / "matching.yaml").write_text(yaml.safe_dump(matching))
    assert main(["--config", str(tmp_path / "matching.yaml")]) == 0
    assert (tmp_path / "matched" / "results.json").is_file()


def _columns(folder: Path) -> set[str]:
    return {name for path in folder.rglob("metrics.csv") for name in path.read_text().splitlines()[0].split(",")}


def test_a_resumed_training_goes_on_exactly(scenes: Path, tmp_path: Path) -> None:
    """In the middle of an epoch, with gradients added up, averages, clipping and a schedule."""
    kept = ("ModelCheckpoint", "EMAWeightAveraging")
    whole = settings(tmp_path / "whole", scenes, keep=kept, accumulate_grad_batches=2)
    assert main(["fit", "--config", str(whole)]) == 0
    expected = logged(tmp_path / "whole", "train/loss")
    resumed = settings(tmp_path / "resumed", scenes, keep=kept, accumulate_grad_batches=2)
    (at_five,) = (tmp_path / "whole" / "checkpoints").glob("*step=5.ckpt")
    assert main(["fit", "--config", str(resumed), "--ckpt_path", str(at_five)]) == 0
    found = logged(tmp_path / "resumed", "train/loss")
    assert min(found) == 5
    assert found == {step: value for step, value in expected.items() if step >= 5}
    for name in ("val/patch_cosine", "val/loss"):
        assert logged(tmp_path / "resumed", name) == {
            step: value for step, value in logged(tmp_path / "whole", name).items() if step >= 5
        }
    one, other = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=False) for run in ("whole", "resumed")
    )
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, other[key][name]) for name, value in one[key].items())


def test_a_training_that_was_stopped_behind_its_last_checkpoint_ends(scenes: Path, tmp_path: Path) -> None:
    """The averaged weights are written, though not a step is left."""
    path = settings(tmp_path, scenes, keep=("ModelCheckpoint", "EMAWeightAveraging"), max_steps=5)
    assert main(["fit", "--config", str(path)]) == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "student").iterdir()}
    shutil.rmtree(tmp_path / "student")
    assert main(["fit", "--config", str(path), "--ckpt_path", "last"]) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "student").iterdir()} == before


def test_two_processes_learn_as_one(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The teacher's blocks are spread over the two."""
    runs = {}
    for devices, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(devices)
        path = settings(
            folder, scenes, keep=(), devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=8
        )
        config = yaml.safe_load(path.read_text())
        config["data"]["init_args"]["batch_size"] = batch
        config["model"]["init_args"]["teacher"]["shard"] = True
        path.write_text(yaml.safe_dump(config))
        if devices == 2:
            told = run(path).stderr
        else:
            assert main(["fit", "--config", str(path)]) == 0
            told = capsys.readouterr().err
        assert ("blocks are spread over 2 processes" in told) is (devices == 2)
        runs[devices] = [logged(folder, name) for name in ("train/loss", "val/patch_cosine", "val/loss")]
    for one, two in zip(runs[1], runs[2], strict=True):
        assert one.keys() == two.keys() != set()
        assert all(abs(one[step] - two[step]) < 1e-4 for step in one)


def run(path: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run_lightening.py", "fit", "--config", str(path), *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_killed_while_a_checkpoint_is_written(scenes: Path, tmp_path: Path) -> None:
    """Whatever is there afterwards is whole, and the training goes on from the last checkpoint."""
    path = settings(
        tmp_path, scenes, keep=("ModelCheckpoint", "OnnxExportCallback"), max_steps=400, limit_val_batches=0
    )
    config = yaml.safe_load(path.read_text())
    for part in config["trainer"]["callbacks"]:
        if part["class_path"].endswith("ModelCheckpoint"):
            part["init_args"] |= {"every_n_train_steps": 1, "save_top_k": 2, "monitor": "step", "mode": "max"}
    path.write_text(yaml.safe_dump(config))
    checkpoints = tmp_path / "checkpoints"
    command = [sys.executable, "run_lightening.py", "fit", "--config", str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            # As soon as a later checkpoint has begun to be written.
            if (checkpoints / "last.ckpt").exists() and any(checkpoints.glob(".*.ckpt")):
                break
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    whole = sorted(checkpoints.glob("[!.]*.ckpt"))
    assert whole
    steps = [int(torch.load(one, weights_only=False)["global_step"]) for one in whole]
    for folder in checkpoints.glob("[!.]*-onnx*"):
        read_onnx_file(folder)
    done = max(logged(tmp_path, "train/loss"), default=0)  # written every so often
    last = int(torch.load(checkpoints / "last.ckpt", weights_only=False)["global_step"])
    assert last >= max(steps) - 1
    assert last >= done - 1
    more = ["--ckpt_path", "last", "--trainer.max_steps", str(last + 3)]
    assert main(["fit", "--config", str(path), *more]) == 0
    assert int(torch.load(checkpoints / "last.ckpt", weights_only=False)["global_step"]) == last + 3
    (again,) = tmp_path.rglob("version_1/metrics.csv")
    assert min(logged(again.parent, "train/loss")) == last
    # What the killed run left half-written is gone.
    assert [one.name for one in checkpoints.iterdir() if one.name.startswith(".")] == []


def test_damaged_checkpoints_are_told(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings(tmp_path, scenes)
    damaged = tmp_path / "damaged.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, damaged)
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert main(["fit", "--config", str(path), "--ckpt_path", str(damaged)]) == 2
    error = capsys.readouterr().err
    assert "damaged.ckpt is not a checkpoint, or not a whole one" in error
    with pytest.raises(WeightsFormatError):
        AtomicCheckpointIO().load_checkpoint(damaged)


def test_the_licence_goes_along(scenes: Path, tmp_path: Path) -> None:
    """A teacher of DINOv3's makes its student, the exports and the conversions DINOv3's too."""
    path = settings(tmp_path, scenes, keep=("ModelCheckpoint", "OnnxExportCallback"), max_steps=5)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for name in ("config.json", "model.safetensors"):
        (teacher / name).write_bytes((TEACHER / name).read_bytes())
    (teacher / NOTICE_FILE).write_text("made from DINOv3")
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["teacher"]["ckpt_path"] = str(teacher)
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    assert ntt(["convert", str(checkpoint), str(tmp_path / "hf"), "--to", "hf"]) == 0
    for folder in (checkpoint.parent, checkpoint.with_name("last-onnx"), tmp_path / "student", tmp_path / "hf"):
        assert "distilled from dinov3_quickstart" in (folder / NOTICE_FILE).read_text()


def test_positions_are_not_moved_about(scenes: Path) -> None:
    """transformers shifts RoPE at random in training; the teacher's patches stay where they are."""
    module = DistillationModule({"name": "dinov3_quickstart", "ckpt_path": TEACHER}, {"name": "dinov3_quickstart_tiny"})
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(module.student_features(images).patches, module.student_features(images).patches)
    assert module.model.training


def test_layers_folders_and_sizes(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More of the settings: blocks in between, a folder as the student, images by folder with classes."""
    for index in range(40):
        image = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 80), (250 * (index % 2), 6 * index, 90)).save(image)
    path = settings(tmp_path / "run", scenes, max_steps=4, val_check_interval=4)
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["loss"] = {"layers": {0: 2, 1: 5}, "layer": 0.5}
    config["model"]["init_args"]["student"] = {"folder": str(TEACHER)}
    config["data"]["init_args"] |= {"scenes": None, "folders": [str(tmp_path / "images")], "num_val": 4}
    config["data"]["init_args"] |= {"val_folders": [str(tmp_path / "images")], "val_labelled": True}
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    assert {"train/layer", "val/layer", "val/knn_accuracy", "val/knn_accuracy_teacher"} <= _columns(tmp_path / "run")
    assert logged(tmp_path / "run", "val/knn_accuracy_teacher")[3] == 1.0
    for wrong, message in (
        (["--model.loss.layers", "{0: 6}"], r"names \[6\] of the teacher dinov3_quickstart, whose blocks are 0 to 5"),
        (["--data.views.size", "72"], "expected multiples of its patch size 16"),
        (["--model.teacher", "{name: dinov9}"], "dinov9"),
        (["--model.student", "{name: dinov3_quickstart_tiny, depth: 3}"], "depth"),
        (["--data.folders", "[nowhere]"], "there is no folder nowhere"),
    ):
        assert main(["fit", "--config", str(path), *wrong]) == 2, wrong
        assert re.search(message, capsys.readouterr().err), message


def test_the_yaml_for_real_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is shipped, but for the encoders and images that are not here."""
    monkeypatch.chdir(ROOT)  # it names the quickstart's YAML
    for index in range(8):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (70, 80), (30 * index, 90, 60)).save(tmp_path / "images" / f"{index}.png")
    shipped = (ROOT / "pl_configs" / "distill_dinov3_small.yaml").read_text()
    config = yaml.safe_load(shipped.replace("runs/distill_dinov3_small", str(tmp_path)))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model["teacher"] |= {"name": "dinov3_quickstart", "ckpt_path": str(TEACHER)}
    model["student"] = {"name": "dinov3_quickstart_tiny"}
    model["loss"]["layers"] = {0: 2, 1: 5}
    data |= {"folders": [str(tmp_path / "images")], "num_val": 2, "batch_size": 2, "num_workers": 0}
    data["views"]["size"] = 64
    config["trainer"] |= {"accelerator": "cpu", "devices": 1, "max_steps": 2, "val_check_interval": 2}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "settings.yaml")]) == 0
    assert (tmp_path / "student" / "model.safetensors").is_file()
    assert any((tmp_path / "tensorboard").rglob("events.out.*"))
