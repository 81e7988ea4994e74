"""The validation hook: what it logs, what it leaves alone, what it does when backends drift apart."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from no_time_to_train.cli.lightning.command import main
from no_time_to_train.errors import ConfigError, ParityError
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.training.feature_parity import FeatureParityCallback
from no_time_to_train.training.onnx_export import OnnxExportCallback
from tests.parity.planted import scale_in_file
from tests.training.test_onnx_export import CONFIGS, Regression

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Validated(Regression):
    """With a validation that keeps the random numbers it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[torch.Tensor] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.drawn.append(torch.rand(1))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        assert not self.training

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        assert not self.training


def trained(
    folder: Path, *callbacks: pl.Callback, module: pl.LightningModule | None = None, **options: Any
) -> pl.Trainer:
    torch.manual_seed(0)
    module = Validated() if module is None else module
    train, val = (DataLoader(TensorDataset(torch.randn(count, 3, 40, 64)), batch_size=2) for count in (8, 4))
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"logger": False, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, train, val)
    return trainer


@pytest.mark.filterwarnings("ignore:You have overridden")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_logs_and_leaves_the_training_alone(precision: str, tmp_path: Path) -> None:
    """Validations fall between batches whose gradients are added up, and nothing of these is lost."""
    modules = [Validated(), Validated()]
    modules[1].load_state_dict(modules[0].state_dict())
    options: dict[str, Any] = {"precision": precision, "accumulate_grad_batches": 2, "val_check_interval": 3}
    trained(tmp_path, module=modules[0], **options)
    callback = FeatureParityCallback()
    trainer = trained(tmp_path, callback, module=modules[1], **options)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("parity/")}
    assert logged.keys() == {
        f"parity/{pair}/{name}"
        for pair in ("torch-onnx", "torch-eqx", "onnx-eqx")
        for name in ("cls_cosine", "patch_cosine", "max_abs")
    }
    assert all(value > 0.99999 for name, value in logged.items() if name.endswith("cosine"))
    assert callback.report is not None
    assert callback.report.ok
    assert callback.report.shape == (2, 3, 32, 64)  # the validation's images, cut to whole patches
    assert all(torch.equal(one, other) for one, other in zip(modules[0].drawn, modules[1].drawn, strict=True))
    states = [module.state_dict() for module in modules]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(part.training for part in modules[1].modules())
    assert {parameter.dtype for parameter in modules[1].parameters()} == {torch.float32}


def small_training(folder: Path, callbacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of a training of four steps, with a validation every second one."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "train_quickstart_encoder.yaml").read_text())
    config["model"]["init_args"] |= {"output": str(folder / "out"), "img_size": 64}
    data = {"root": str(folder / "scenes"), "num_scenes": 24, "batch_size": 2, "size": 64, "num_val": 4}
    config["data"]["init_args"] |= data
    config["trainer"] |= {"default_root_dir": str(folder), "max_steps": 4, "val_check_interval": 2}
    config["trainer"] |= {"enable_progress_bar": False, "log_every_n_steps": 1, "callbacks": callbacks}
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    return config


class Corrupting(pl.Callback):
    """Changes a weight in every export as soon as it is there."""

    def __init__(self, exporting: OnnxExportCallback) -> None:
        super().__init__()
        self.exporting = exporting
        self.seen: set[Path] = set()

    def on_train_batch_start(self, *args: Any) -> None:
        self.corrupt()

    def on_train_end(self, *args: Any) -> None:
        self.corrupt()

    def corrupt(self) -> None:
        for folder in set(self.exporting.finished()) - self.seen:
            self.seen.add(folder)
            scale_in_file(folder, "layer.1.mlp.up_proj.weight", 1.01)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_exports_are_compared_where_no_validation_is(tmp_path: Path) -> None:
    """And the stage at fault is named."""
    callback, exporting = FeatureParityCallback(backends=["onnx"]), OnnxExportCallback(on_error="raise")
    checkpoints = ModelCheckpoint(dirpath=tmp_path / "checkpoints", every_n_train_steps=3, save_top_k=-1)
    options: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": True, "logger": CSVLogger(tmp_path)}
    trained(tmp_path, exporting, callback, checkpoints, **options)
    assert callback.report is not None
    assert callback.report.ok
    with next(tmp_path.rglob("metrics.csv")).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("parity/torch-onnx/max_abs")]
    assert [row["step"] for row in rows] == ["3", "6"]

    other = tmp_path / "other"
    exporting = OnnxExportCallback(on_error="raise")
    callback = FeatureParityCallback(backends=["onnx"], on_failure="stop")
    checkpoints = ModelCheckpoint(dirpath=other / "checkpoints", every_n_train_steps=3, save_top_k=-1)
    with pytest.warns(UserWarning, match="at step 3 onnx first drifts at block 1, mlp_raw: the stage itself errs"):
        trainer = trained(other, exporting, Corrupting(exporting), callback, checkpoints, **options)
    assert trainer.global_step <= 4  # the batch that had begun is the last


def test_what_it_does_when_they_drift(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"at step [48] torch-eqx drift apart: .* expected a difference of at most"):
        trained(tmp_path, FeatureParityCallback(backends=["eqx"], tolerance=0.0))
    with pytest.raises(ParityError, match="on_failure: warn lets the training go on"):
        trained(tmp_path, FeatureParityCallback(backends=["eqx"], tolerance=0.0, on_failure="raise"))
    with pytest.warns(UserWarning, match="drift apart"):
        trainer = trained(tmp_path, FeatureParityCallback(backends=["eqx"], tolerance=0.0, on_failure="stop"))
    assert trainer.global_step == 4


def test_how_often_and_in_tests(tmp_path: Path) -> None:
    seldom = FeatureParityCallback(every_n_validations=3, backends=["eqx"])
    trainer = trained(tmp_path, seldom)
    before = seldom.report
    trainer.test(Validated(), DataLoader(TensorDataset(torch.rand(2, 1)), batch_size=2), verbose=False)
    after = seldom.report
    assert before is None
    assert after is not None
    assert after.shape == (2, 3, 64, 96)  # noise: the batch holds no images


def test_settings_and_modules_that_make_no_sense(tmp_path: Path) -> None:
    mistakes: list[dict[str, Any]] = [
        {"num_samples": 0},
        {"every_n_validations": 0},
        {"backends": []},
        {"backends": ["tf"]},
    ]
    for wrong in mistakes:
        with pytest.raises(ConfigError):
            FeatureParityCallback(**wrong)

    class Headless(Validated):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(1, 1)  # type: ignore[assignment] # no encoder, on purpose
            self.head = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = self.head(batch[0].mean((2, 3))).mean()
            return loss

    with pytest.raises(ConfigError, match="Headless holds no DINOv3 model"):
        trained(tmp_path, FeatureParityCallback(), module=Headless())


@pytest.mark.parametrize("on_failure", ["raise"])
def test_two_processes_end_alike(on_failure: str, tmp_path: Path) -> None:
    """The first compares, and no process waits for another for ever."""
    callback = {
        "class_path": "no_time_to_train.training.feature_parity.FeatureParityCallback",
        "init_args": {"on_failure": on_failure, "backends": ["eqx"], "tolerance": 0.0},
    }
    config = small_training(tmp_path, [callback])
    config["trainer"] |= {"devices": 2, "strategy": "ddp_find_unused_parameters_true", "accelerator": "cpu"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "run_lightening.py", "fit", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == (2 if on_failure == "raise" else 0), done.stderr
    assert "torch-eqx drift apart" in done.stderr
    steps = re.findall(r"at step (\d+)", done.stderr)
    assert set(steps) == {"2"}


def test_both_callbacks_by_yaml(tmp_path: Path) -> None:
    """A checkpoint, an ONNX folder and a parity entry in the log."""
    checkpoint = {"dirpath": str(tmp_path / "checkpoints"), "every_n_train_steps": 2, "save_top_k": -1}
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoint},
        {
            "class_path": "no_time_to_train.training.onnx_export.OnnxExportCallback",
            "init_args": {"on_error": "raise", "asynchronous": True},
        },
        {
            "class_path": "no_time_to_train.training.feature_parity.FeatureParityCallback",
            "init_args": {"on_failure": "raise", "backends": ["onnx", "eqx"]},
        },
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(small_training(tmp_path, callbacks)))
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    files = sorted((tmp_path / "checkpoints").glob("*.ckpt"))
    assert len(files) == 2
    for file in files:
        assert read_onnx_file(file.with_name(f"{file.stem}-onnx")).metadata["checkpoint"] == file.name
    (log,) = tmp_path.rglob("metrics.csv")
    with log.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["parity/torch-onnx/max_abs"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    assert all(0 < float(row["parity/torch-onnx/max_abs"]) < 2e-5 for row in rows)
    assert all(float(row["parity/torch-eqx/cls_cosine"]) > 0.99999 for row in rows)
