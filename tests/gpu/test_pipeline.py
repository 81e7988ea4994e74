"""The whole way on a GPU: references and images in, instances out, by every door."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from no_time_to_train import Segmenter
from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main
from tests.test_segmenter import mask, picture
from tests.tiny import write_dataset
from tests.training.distill.test_module import logged, settings
from tests.training.quickstart.test_modules import arguments

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "checkpoints" / "quickstart"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:.*tensorboard:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "scenes"


def segmenter(device: torch.device | str, **settings: Any) -> Segmenter:
    built = Segmenter(
        "dinov3_quickstart",
        encoder_weights=QUICKSTART / "encoder",
        sam2=str(QUICKSTART / "sam2"),
        img_size=384,
        device=device,
        **{"sam2_infer_cfgs": {"points_per_side": 12}, **settings},
    )
    built.add_reference(picture(0), mask=mask(), label="red")
    built.add_reference(picture(1), mask=mask(), label="green")
    return built


@pytest.mark.parametrize("selection", ["grid", "prior"])
def test_a_segmenter_finds_the_same(selection: str, device: torch.device) -> None:
    infer = {"points_per_side": 12, "prompt_selection": selection}
    expected = segmenter("cpu", sam2_infer_cfgs=infer).predict(picture(3))
    found = segmenter(device, sam2_infer_cfgs=infer).predict(picture(3))
    assert len(found) == len(expected) > 0
    assert np.array_equal(found.labels, expected.labels)
    # The patch embedding is convolved in TF32 on a GPU.
    assert np.abs(found.scores - expected.scores).max() <= 5e-3
    assert (found.masks != expected.masks).mean() <= 1e-3
    assert found.to_coco(1)[0]["category_id"] in (1, 2)
    assert found.draw(picture(3)).size == (64, 48)


def test_a_cache_and_half_precision(tmp_path: Path, device: torch.device) -> None:
    built = segmenter(device, precision="bf16", feature_cache={"folder": tmp_path / "cache"})
    first, again = built.predict(picture(3)), built.predict(picture(3))
    assert len(first) > 0
    assert np.array_equal(first.masks, again.masks)
    assert np.array_equal(first.scores, again.scores)


def test_a_compiled_segmenter_finds_the_same(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("compiles for a minute on two cores")
    built = segmenter(device, compile=True)
    # The first is computed with what was compiled just now, the third and later ones may be replayed.
    for _ in range(4):
        found, expected = built.predict(picture(3)), segmenter(device).predict(picture(3))
        assert np.array_equal(found.labels, expected.labels)
        assert np.abs(found.scores - expected.scores).max() <= 5e-3
        assert (found.masks != expected.masks).mean() <= 1e-3


@pytest.mark.parametrize("preset", ["exact", "fast"])
def test_the_quickstart_scores_the_same(preset: str, tmp_path: Path, device: torch.device) -> None:
    metrics = {}
    for where in ("cpu", device.type):
        out = tmp_path / where
        arguments = [
            *("--config", str(ROOT / "pl_configs/quickstart.yaml")),
            *("--config", str(ROOT / f"pl_configs/presets/{preset}.yaml")),
            *("--model.model_cfg.sam2_cfg_file", str(QUICKSTART / "sam2")),
            *("--model.model_cfg.encoder_ckpt_path", str(QUICKSTART / "encoder")),
            *("--data.root", str(tmp_path / "shapes"), "--data.num_targets", "8", "--data.shots", "2"),
            *("--trainer.default_root_dir", str(out), "--model.overlays", "1"),
            *("--trainer.accelerator", "gpu" if where == "cuda" else "cpu", "--trainer.devices", "1"),
            *("--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
            *(["--trainer.strategy", "ddp"] if where == "cuda" and preset == "exact" else []),
        ]
        assert main(arguments) == 0
        metrics[where] = json.loads((out / "metrics.json").read_text())
        print(preset, where, metrics[where]["segm"]["AP"], metrics[where]["seconds_per_image"])
    difference = metrics["cpu"]["segm"]["AP"] - metrics[device.type]["segm"]["AP"]
    # Eight images: one instance that changes places is half a point.
    assert abs(difference) <= 0.02


def test_predict_takes_a_device(tmp_path: Path, device: torch.device) -> None:
    data = write_dataset(tmp_path / "data", targets=2)
    status = ntt(
        [
            *("predict", "--references", str(data.references), "--reference-images", str(data.images)),
            *("--images", str(data.images), "--output", str(tmp_path / "out"), "--device", device.type),
            *("--encoder", "dinov3_quickstart", "--encoder-weights", str(QUICKSTART / "encoder")),
            *("--sam2", str(QUICKSTART / "sam2")),
        ]
    )
    assert status in (0, None)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 7


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_distillation_learns(precision: str, scenes: Path, tmp_path: Path, device: torch.device) -> None:
    if precision == "16-mixed" and device.type == "cpu":
        pytest.skip("a CPU trains in bfloat16")
    callbacks = ("ModelCheckpoint", "EMAWeightAveraging", "OnnxExportCallback", "FeatureParityCallback")
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    path = settings(
        tmp_path, scenes, keep=callbacks, precision=precision, max_steps=20, val_check_interval=10, devices=1,
        accelerator=accelerator,
    )  # fmt: skip
    config = yaml.safe_load(path.read_text())
    for part in config["trainer"]["callbacks"]:
        if part["class_path"].endswith("FeatureParityCallback"):
            part["init_args"] = {"on_failure": "raise"}
        if part["class_path"].endswith("ModelCheckpoint"):
            part["init_args"] |= {"every_n_train_steps": 10, "save_top_k": 1}
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    losses = logged(tmp_path, "train/loss")
    assert losses[19] < losses[0]
    assert (tmp_path / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["encoder", "sam2"])
def test_the_quickstart_models_train(kind: str, tmp_path: Path, device: torch.device) -> None:
    accelerator = ["--trainer.accelerator", "gpu" if device.type == "cuda" else "cpu"]
    assert main(arguments(kind, tmp_path / "scenes", tmp_path, *accelerator)) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_originals_protocol_gives_the_same(device: torch.device) -> None:
    settings: dict[str, Any] = {"protocol": "published", "memory_bank_cfg": {"crop_scale": 2.0}}
    expected, found = (segmenter(where, **settings).predict(picture(3)) for where in ("cpu", device))
    assert len(found) == len(expected) > 0
    assert np.array_equal(found.labels, expected.labels)
    # SAM2 convolves in TF32 on a GPU.
    assert np.abs(found.scores - expected.scores).max() <= 5e-3
    assert (found.masks != expected.masks).mean() <= 1e-3
