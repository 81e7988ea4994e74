"""Settings of a run that no class can take, and runs that would do nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from no_time_to_train.cli.lightning.command import main
from tests.training.distill import test_module
from tests.training.distill.test_module import ROOT, settings

pytestmark = test_module.pytestmark

_MODEL = "model.init_args.model_cfg"


def changed(config: dict[str, Any], changes: dict[str, Any], path: Path) -> str:
    for name, value in changes.items():
        *parts, last = name.split(".")
        place = config
        for part in parts:
            place = place[part]
        place[last] = value
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.init_args.shots", None, r"data\.shots is null \(set it, or leave it out"),
        (f"{_MODEL}.sam2_infer_cfgs.points_per_side", None, r"sam2_infer_cfgs\.points_per_side is null"),
        (f"{_MODEL}.memory_bank_cfg", None, r"memory_bank_cfg is null"),
        (f"{_MODEL}.memory_bank_cfg", [1], r"memory_bank_cfg is \[1\], expected settings by name"),
        ("model.init_args.overlays", None, r"model\.overlays is null"),
        ("model.class_path", None, r"own\.yaml: model\.class_path is None, expected the dotted name of a class"),
        ("data.class_path", ["a"], r"data\.class_path is \['a'\], expected"),
        ("data.class_path", "..a", r"data\.class_path is '\.\.a', expected"),
        ("data.init_args", None, r"data\.init_args is None, expected settings by name"),
        ("trainer.limit_test_batches", 0, r"trainer\.limit_test_batches is 0, and test would do nothing"),
    ],
)
def test_what_no_class_takes_is_named(
    name: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((ROOT / "pl_configs" / "quickstart.yaml").read_text())
    path = changed(config, {name: value, "trainer.default_root_dir": str(tmp_path / "run")}, tmp_path / "own.yaml")
    assert main(["--config", path]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.init_args.batch_size", None, r"data\.batch_size is null"),
        ("data.init_args.views.size", None, r"data\.views\.size is null"),
        ("model.init_args.loss.cls", None, r"model\.loss\.cls is null"),
        ("trainer.val_check_interval", 0, r"trainer\.val_check_interval is 0, expected more than 0"),
        ("trainer.accumulate_grad_batches", 0, r"trainer\.accumulate_grad_batches is 0"),
        ("trainer.check_val_every_n_epoch", 0, r"trainer\.check_val_every_n_epoch is 0"),
        ("trainer.limit_train_batches", 0, r"trainer\.limit_train_batches is 0, and fit would do nothing"),
        ("trainer.max_steps", 0, r"no step was trained, and nothing is written \(raise trainer\.max_steps"),
    ],
)
def test_a_training_that_cannot_be_is_told(
    name: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(settings(tmp_path, tmp_path / "scenes", keep=()).read_text())
    assert main(["fit", "--config", changed(config, {name: value}, tmp_path / "own.yaml")]) == 2
    shown = capsys.readouterr()
    assert re.search(message, shown.err)
    assert "trained model" not in shown.out
    assert not (tmp_path / "student").exists()
