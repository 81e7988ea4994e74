"""The demo on small stand-ins: the baseline beside, the picture, what comes next, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.cli.lightning.command import main
from tests.tiny import small_model_arguments, write_config

CONFIG = Path(__file__).parents[3] / "pl_configs" / "quickstart.yaml"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def arguments(tmp_path: Path) -> list[str]:
    return [
        *("--config", str(CONFIG), *small_model_arguments(write_config(tmp_path / "sam2"))),
        *("--model.model_cfg.sam2_infer_cfgs.points_per_side", "4", "--trainer.default_root_dir", str(tmp_path)),
        *("--data.root", str(tmp_path / "shapes"), "--data.size", "64", "--data.shots", "1", "--data.num_targets", "3"),
    ]


def test_demo_compares_draws_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "mask average precision" in said
    assert "mean colour" in said
    assert "striped_bolt_red" in said
    assert "Next:" in said
    for named in ("docs/start.md", "pl_configs/custom_dataset.yaml", "checkpoints/README.md"):
        assert named in said
        assert (CONFIG.parents[1] / named).is_file()
    with Image.open(tmp_path / "contact_sheet.png") as picture:
        assert np.asarray(picture).std() > 10
    # Written last: where they are, all else is of the same run.
    assert (tmp_path / "metrics.json").stat().st_mtime_ns >= (tmp_path / "contact_sheet.png").stat().st_mtime_ns
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["mean_colour"]) == {"bbox", "segm"}
    assert 0 <= metrics["mean_colour"]["segm"]["AP"] <= 1


def test_without_truth_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(tmp_path)
    assert main(args) == 0
    references = tmp_path / "shapes" / "references.json"
    data = "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"
    args = args[: args.index("--data.root")]
    folders = [f"--data.{part}_images={tmp_path / 'shapes' / 'images'}" for part in ("reference", "target")]
    capsys.readouterr()
    for targets in ("null", str(unannotated(tmp_path))):
        given = [*args, "--data", data, "--data.references", str(references), "--data.targets", targets, *folders]
        assert main(given) == 0
        said = capsys.readouterr().out
        assert "nothing is annotated in these images: no average precision" in said
        assert "colour" not in said
        assert " - " not in said
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert "segm" not in metrics
        assert "mean_colour" not in metrics


def unannotated(folder: Path) -> Path:
    document = json.loads((folder / "shapes" / "targets.json").read_text())
    document["annotations"] = []
    (folder / "bare.json").write_text(json.dumps(document))
    return folder / "bare.json"


def test_demo_refuses_another_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*arguments(tmp_path), "--model.test_mode", "fill_memory", "--out_path", str(tmp_path / "m.safetensors")]
    assert main(given) == 2
    assert "Sam2MatcherLightningModel" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--model.resume", "true"], ["--data.shard", "1/2"]])
def test_demo_compares_on_all_targets(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tmp_path), *option]) == 2
    assert "the demo compares" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
