"""Both trainings of the shipped models through the command line: 20 steps, taken up again, bad input."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from no_time_to_train.cli.lightning.command import main
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.proposers.sam2.predictor import build_sam2
from tests.tiny import write_config

CONFIGS = Path(__file__).parents[3] / "pl_configs"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    # The limits below end the training before an epoch does.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training") / "scenes"


def arguments(kind: str, scenes: Path, into: Path, *more: str) -> list[str]:
    """Return what makes a training small: tiny scenes, few of them, checkpoints in `into`."""
    logs = ["--trainer.logger.init_args.save_dir", str(into), "--trainer.callbacks", "null"]
    model = ["--model.img_size", "64"] if kind == "encoder" else ["--model.config", str(write_config(into / "sizes"))]
    return [
        *("fit", "--config", str(CONFIGS / f"train_quickstart_{kind}.yaml"), *model, *logs),
        *("--data.root", str(scenes), "--data.size", "64", "--data.num_scenes", "24", "--data.num_val", "4"),
        *("--data.batch_size", "2", "--model.output", str(into / "out"), "--trainer.default_root_dir", str(into)),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "5"),
        *("--trainer.val_check_interval", "10", "--trainer.max_steps", "20", *more),
    ]


def keep(folder: Path) -> list[str]:
    """Return what keeps a checkpoint after four steps."""
    return [
        "--trainer.callbacks=lightning.pytorch.callbacks.ModelCheckpoint",
        f"--trainer.callbacks.dirpath={folder / 'checkpoints'}",
        "--trainer.callbacks.every_n_train_steps=4",
    ]


def metrics(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.rglob("metrics.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["encoder", "sam2"])
def test_twenty_steps_write_a_model_that_loads(kind: str, scenes: Path, tmp_path: Path) -> None:
    assert main(arguments(kind, scenes, tmp_path)) == 0
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    if kind == "encoder":
        features = build_encoder("dinov3_quickstart", folder)(torch.rand(1, 3, 64, 64))
        assert torch.isfinite(features.patches).all()
    else:
        sam2 = build_sam2(folder)
        assert not sam2.random_weights
        masks = sam2.decode_points(
            sam2.embed(torch.rand(1, 3, 128, 128)), torch.full((1, 1, 2), 64.0), torch.ones(1, 1, dtype=torch.int64)
        )
        assert torch.isfinite(masks.mask_logits).all()
    rows = metrics(tmp_path)
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 4
    assert all(loss > 0 for loss in losses)
    checked = "val/accuracy" if kind == "encoder" else "val/best_iou"
    assert sum(bool(row[checked]) for row in rows) == 2


# It is meant: the second run goes on where the first one kept its checkpoint.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("kind", ["encoder", "sam2"])
def test_a_stopped_training_goes_on(kind: str, scenes: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(kind, scenes, first, "--trainer.max_steps", "4", *keep(tmp_path))) == 0
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    assert state["global_step"] == 4
    assert len(state["optimizer_states"][0]["parts"]) == 2
    goes_on = ["--trainer.max_steps", "6", "--ckpt_path", str(checkpoint), "--trainer.log_every_n_steps", "1"]
    assert main(arguments(kind, scenes, second, *goes_on, *keep(tmp_path))) == 0
    assert [row["step"] for row in metrics(second) if row["train/loss"]] == ["4", "5"]
    before, after = (load_file(folder / "out" / "model.safetensors") for folder in (first, second))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_training_can_begin_with_weights(scenes: Path, tmp_path: Path) -> None:
    for kind in ("encoder", "sam2"):
        first, second = tmp_path / kind / "first", tmp_path / kind / "second"
        assert main(arguments(kind, scenes, first, "--trainer.max_steps", "2")) == 0
        begin = ["--model.init_from", str(first / "out"), "--trainer.max_steps", "1"]
        # A step too small for any number to change.
        begin += ["--model.learning_rate", "1e-30", "--model.adamw_learning_rate", "1e-30"]
        assert main(arguments(kind, scenes, second, *begin)) == 0
        before, after = (load_file(folder / "out" / "model.safetensors") for folder in (first, second))
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor), name


def test_weights_fall_in_value_with_training(scenes: Path, tmp_path: Path) -> None:
    """The encoder learns: its loss on a handful of scenes falls well below where it began."""
    steps = ["--trainer.max_steps", "60", "--model.warmup_steps", "5"]
    assert main(arguments("encoder", scenes, tmp_path, *steps)) == 0
    losses = [float(row["train/objects"]) for row in metrics(tmp_path) if row["train/objects"]]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data.batch_size", "30"], "leave no batch of 30"),
        (["--model.init_from", "nowhere"], "nowhere"),
        (["--data.root", "{file}"], "something else"),
    ],
)
def test_bad_input_is_one_line(
    wrong: list[str], message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    given = [part.format(file=tmp_path / "file") for part in wrong]
    assert main(arguments("encoder", scenes, tmp_path, *given)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "out").exists()
