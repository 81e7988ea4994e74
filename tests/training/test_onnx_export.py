"""An export beside every checkpoint, by YAML, that leaves the training as it was."""

import json
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from no_time_to_train.cli.lightning.command import main
from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.encoders.live_weights import find_live_encoder
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import ConfigError, ExportError
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.training.onnx_export import OnnxExportCallback

CONFIGS = Path(__file__).parents[2] / "pl_configs"
SMALL = Architecture(
    family="dinov3_vit", embed_dim=32, depth=2, num_heads=2, ffn_dim=64, patch_size=16, num_storage_tokens=4
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You defined a .*validation_step"),
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint"),
]


class Regression(pl.LightningModule):
    """Learns to give ones; holds a small DINOv3 model of transformers, like a user's own module."""

    def __init__(self, architecture: Architecture = SMALL) -> None:
        super().__init__()
        self.model = build_model(architecture, num_heads=2)
        self.head = torch.nn.Linear(architecture.embed_dim, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = (self.head(self.model(pixel_values=batch[0]).pooler_output) - 1).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    folder: Path,
    *callbacks: pl.Callback,
    steps: int = 6,
    module: pl.LightningModule | None = None,
    ckpt_path: Path | None = None,
) -> pl.Trainer:
    """Train for some steps, with a checkpoint every second one unless the callbacks say otherwise."""
    torch.manual_seed(0)
    module = Regression() if module is None else module
    data = DataLoader(TensorDataset(torch.randn(steps, 3, 32, 32)), batch_size=1)
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )
    trainer.fit(module, data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return trainer


def every_second_step(folder: Path, **settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, every_n_train_steps=2, **{"save_top_k": -1, **settings})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_checkpoint_has_its_export(asynchronous: bool, tmp_path: Path) -> None:
    callback = OnnxExportCallback(asynchronous=asynchronous)
    fit(tmp_path, every_second_step(tmp_path), callback)
    stems = [f"epoch=0-step={step}" for step in (2, 4, 6)]
    assert names(tmp_path) == {f"{stem}.ckpt" for stem in stems} | {f"{stem}-onnx" for stem in stems}
    answers = []
    for stem in stems:
        folder = tmp_path / f"{stem}-onnx"
        assert names(folder) >= {"model.onnx", "model.safetensors", "config.json", "preprocessor_config.json"}
        pixels = torch.randn(2, 3, 48, 64)
        # Each is the checkpoint's own weights, not a later step's.
        state = torch.load(tmp_path / f"{stem}.ckpt", weights_only=True)["state_dict"]
        model = build_model(SMALL, num_heads=2)
        model.load_state_dict({key.removeprefix("model."): state[key] for key in state if key.startswith("model.")})
        torch.nn.Module.eval(model)  # transformers shifts RoPE's positions at random as it trains
        with torch.inference_mode():
            expected = model(pixel_values=pixels).last_hidden_state.numpy()
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        states = session.run(None, {"pixel_values": pixels.numpy()})[0]
        assert np.abs(states - expected).max() <= 1e-5
        answers.append(session.run(None, {"pixel_values": np.ones((1, 3, 32, 32), np.float32)})[0])
        metadata = read_onnx_file(folder).metadata
        assert (metadata["checkpoint"], metadata["global_step"]) == (f"{stem}.ckpt", stem.rpartition("=")[2])
        assert "loss" in json.loads(metadata["metrics"])
    assert not np.array_equal(answers[0], answers[1])


def test_deleted_checkpoints_take_their_exports_along(tmp_path: Path) -> None:
    best = every_second_step(tmp_path, save_top_k=1, monitor="loss", save_last=True)
    callback = OnnxExportCallback(keep_last=None)
    fit(tmp_path, best, callback, steps=8)
    kept = {path.stem for path in tmp_path.glob("*.ckpt")}
    assert len(kept) == 2
    assert "last" in kept
    assert {path.name for path in tmp_path.glob("*-onnx")} == {f"{stem}-onnx" for stem in kept}
    assert set(callback.exports) == {tmp_path / f"{stem}-onnx" for stem in kept}


def test_how_often_how_many_and_where(tmp_path: Path) -> None:
    callback = OnnxExportCallback(dirpath=tmp_path / "onnx", every_n_checkpoints=2, keep_last=1)
    fit(tmp_path, every_second_step(tmp_path / "ckpt"), callback, steps=12)
    assert len(names(tmp_path / "ckpt")) == 6
    assert names(tmp_path / "onnx") == {"epoch=0-step=12-onnx"}


def test_training_goes_on_as_without_it(tmp_path: Path) -> None:
    def train(folder: Path, *callbacks: pl.Callback) -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
        module = Regression()
        fit(folder, every_second_step(folder), *callbacks, module=module)
        assert all(part.training for part in module.modules())
        assert all(parameter.requires_grad for parameter in module.parameters())
        return module.state_dict(), torch.rand(3), float(np.random.default_rng().random() * 0)

    states = []
    for index, callbacks in enumerate(([], [OnnxExportCallback()], [OnnxExportCallback(precision="int8")])):
        torch.manual_seed(1)
        states.append(train(tmp_path / str(index), *callbacks))
    for state, drawn, _ in states[1:]:
        assert torch.equal(drawn, states[0][1])
        assert all(torch.equal(value, states[0][0][key]) for key, value in state.items())


def test_smaller_exports_hold_nothing_else(tmp_path: Path) -> None:
    fit(
        tmp_path,
        every_second_step(tmp_path),
        OnnxExportCallback(precision="int8", image_size=64, batch_size=1),
        steps=2,
    )
    folder = tmp_path / "epoch=0-step=2-onnx-int8"
    assert names(folder) == {"model.onnx", "weights.safetensors", "config.json", "preprocessor_config.json"}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 64, 64]


def test_somebody_elses_folder_stays(tmp_path: Path) -> None:
    taken = tmp_path / "epoch=0-step=2-onnx"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match=r"is there already, and is not an export of epoch=0-step=2\.ckpt"):
        fit(tmp_path, every_second_step(tmp_path), OnnxExportCallback(), steps=2)
    assert (taken / "notes.txt").read_text() == "mine"


def test_a_trainer_that_failed_is_watched_once(tmp_path: Path) -> None:
    class Fails(Regression):
        fails = True

        def on_train_batch_end(self, *args: Any) -> None:
            if self.fails and self.global_step == 3:
                raise RuntimeError("as planned")

    module, callback = Fails(), OnnxExportCallback(keep_last=None)
    checkpoints = every_second_step(tmp_path)
    with pytest.raises(RuntimeError, match="as planned"):
        fit(tmp_path, checkpoints, callback, module=module)
    module.fails = False
    trainer = fit(tmp_path / "again", every_second_step(tmp_path / "again"), callback, steps=2, module=module)
    assert type(trainer.strategy.checkpoint_io).__name__ == "TorchCheckpointIO"
    assert len(callback.exports) == 2


def test_a_run_that_goes_on_deletes_in_turn(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    fit(first, every_second_step(first), OnnxExportCallback(keep_last=2), steps=6)
    assert {path.name for path in first.glob("*-onnx")} == {"epoch=0-step=4-onnx", "epoch=0-step=6-onnx"}
    resumed = first / "epoch=0-step=6.ckpt"
    # Elsewhere it leaves alone what it came from.
    fit(other, every_second_step(other), OnnxExportCallback(keep_last=2), steps=8, ckpt_path=resumed)
    assert {path.name for path in first.glob("*-onnx")} == {"epoch=0-step=4-onnx", "epoch=0-step=6-onnx"}
    fit(first, every_second_step(first), OnnxExportCallback(keep_last=2), steps=10, ckpt_path=resumed)
    assert not (first / "epoch=0-step=4-onnx").exists()


def test_two_callbacks_and_odd_names(tmp_path: Path) -> None:
    class Saves(Regression):
        def on_train_end(self) -> None:
            for name in ("loss=0.1", "loss=0.2"):
                self.trainer.save_checkpoint(tmp_path / name)

    callbacks = [OnnxExportCallback(), OnnxExportCallback(precision="int8")]
    fit(tmp_path, *callbacks, every_second_step(tmp_path), module=Saves(), steps=2)
    stems = ("loss=0.1", "loss=0.2", "epoch=0-step=2")
    assert {path.name for path in tmp_path.glob("*-onnx*")} == {
        f"{stem}-onnx{suffix}" for stem in stems for suffix in ("", "-int8")
    }
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_failures_warn_or_end_the_run(asynchronous: bool, tmp_path: Path) -> None:
    class NotExportable(Regression):
        """A gated network with an activation that the Equinox model has not."""

        def __init__(self) -> None:
            super().__init__()
            self.model.config.hidden_act = "relu"

    with pytest.warns(UserWarning, match=r"no ONNX export at .*step=2-onnx: WeightsFormatError: .* relu|'relu'"):
        fit(
            tmp_path / "warn",
            every_second_step(tmp_path / "warn"),
            OnnxExportCallback(asynchronous=asynchronous),
            module=NotExportable(),
            steps=2,
        )
    assert names(tmp_path / "warn") == {"epoch=0-step=2.ckpt"}
    with pytest.raises(Exception, match="relu"):
        fit(
            tmp_path / "raise",
            every_second_step(tmp_path / "raise"),
            OnnxExportCallback(asynchronous=asynchronous, on_error="raise"),
            module=NotExportable(),
            steps=2,
        )
    assert [path for path in (tmp_path / "raise").iterdir() if path.is_dir()] == []


def test_modules_and_settings_that_make_no_sense(tmp_path: Path) -> None:
    class Headless(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise AssertionError("it must be refused before")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ConfigError, match="Headless holds no DINOv3 model"):
        fit(tmp_path, OnnxExportCallback(), module=Headless())
    mistakes: list[dict[str, Any]] = [
        *({"keep_last": 0}, {"every_n_checkpoints": 0}, {"opset": 12}, {"precision": "fp8"}, {"batch_size": 0}),
        *({"image_size": (64,)}, {"image_size": 0}),
    ]
    for wrong in mistakes:
        with pytest.raises(ConfigError):
            OnnxExportCallback(**wrong)


def test_which_encoder_of_a_module_it_is() -> None:
    encoder = build_torch_encoder("dinov3_small", random_init=True)
    baseline = torch.nn.ModuleDict({"other": torch.nn.Linear(1, 1), "encoder": encoder})
    live = find_live_encoder(baseline)
    assert live is not None
    assert (live.model, live.name) == (encoder.model, "dinov3_small")
    # What is trained goes before a frozen teacher, wherever it stands.
    student = torch.nn.ModuleDict({"teacher": encoder, "model": Regression()})
    trained = find_live_encoder(student)
    assert trained is not None
    assert trained.model is student.get_submodule("model.model")
    found = find_live_encoder(Regression())
    assert found is not None
    assert (found.entry, found.name) == (None, None)
    assert find_live_encoder(build_torch_encoder("dinov2_small", random_init=True)) is None


def test_by_yaml(tmp_path: Path) -> None:
    """The training of the shipped encoder, small, with the callback in its YAML."""
    config = yaml.safe_load((CONFIGS / "train_quickstart_encoder.yaml").read_text())
    config["model"]["init_args"] |= {"output": str(tmp_path / "out"), "img_size": 64}
    config["data"]["init_args"] |= {
        "root": str(tmp_path / "scenes"),
        "num_scenes": 24,
        "batch_size": 2,
        "size": 64,
        "num_val": 4,
    }
    config["trainer"] |= {
        "default_root_dir": str(tmp_path),
        "max_steps": 4,
        "val_check_interval": 4,
        "enable_progress_bar": False,
        "log_every_n_steps": 2,
    }
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    checkpoint = {"dirpath": str(tmp_path / "checkpoints"), "every_n_train_steps": 4}
    config["trainer"]["callbacks"] = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoint},
        {
            "class_path": "no_time_to_train.training.onnx_export.OnnxExportCallback",
            "init_args": {"on_error": "raise", "image_size": [64, 96], "batch_size": 2, "keep_last": 1},
        },
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    (checkpoint_file,) = (tmp_path / "checkpoints").glob("*.ckpt")
    folder = tmp_path / "checkpoints" / f"{checkpoint_file.stem}-onnx"
    file = read_onnx_file(folder)
    assert (file.image_size, file.batch_size) == ((64, 96), 2)
    assert file.metadata["encoder"] == "dinov3_quickstart"
    assert "train/loss" in json.loads(file.metadata["metrics"])
    # What the training writes at its end are the same weights, in fp16.
    pixels = torch.randn(2, 3, 64, 96)
    with warnings.catch_warnings(), torch.inference_mode():
        expected = build_encoder_from_checkpoint(tmp_path / "out").tokens(pixels).numpy()
    states = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"pixel_values": pixels.numpy()})[0]
    cosine = (states * expected).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosine.min() > 0.9999


def test_errors_of_other_kinds_are_named() -> None:
    callback = OnnxExportCallback(on_error="raise")
    with pytest.raises(ExportError, match="no ONNX export at x: ValueError: odd"):
        callback._failed(Path("x"), ValueError("odd"))
