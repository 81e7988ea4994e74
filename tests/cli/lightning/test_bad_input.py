"""Bad input of the main job: one line, exit status 2, nothing lost."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from no_time_to_train.matching import MemoryBank
from tests.cli.lightning.runs import BASE, one_error, read, run
from tests.conftest import DATA
from tests.tiny import TinyData

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    # Lightning's own, which a caller cannot mend: workers are not worth their start for a handful of images.
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def broken_json(data: TinyData, folder: Path, **changes: Any) -> Path:
    """Write the references with an entry of their first annotation changed."""
    document = read(data.references)
    document["annotations"][0].update(changes)
    path = folder / f"broken_{'_'.join(changes)}.json"
    path.write_text(json.dumps(document))
    return path


def wrong_encoder(folder: Path) -> Path:
    path = folder / "weights.pth"
    shutil.copy(DATA / "golden" / "vit_mlp_untied.pth", path)
    return path


def no_image(data: TinyData, folder: Path) -> Path:
    copy = folder / "images"
    shutil.copytree(data.images, copy)
    (copy / "001.jpg").write_text("no image")
    return copy


def foreign_bank(folder: Path) -> Path:
    bank = MemoryBank(["disc", "square"], 384, "another encoder")
    for index in range(2):
        bank.add(index, torch.ones(1, 1, 384), torch.ones(1, 1))
    bank.save(folder / "bank.safetensors")
    return folder / "bank.safetensors"


BAD = {
    "encoder": (["--model.model_cfg.encoder_cfg.name", "dinov3_Large"], r"did you mean dinov3_large\?"),
    "sam2": (["--model.model_cfg.sam2_cfg_file", "sam2_hiera_xl.yaml"], "sam2_hiera_"),
    "size": (["--model.model_cfg.encoder_cfg.img_size", "65"], "use 64x64"),
    "no weights": (["--model.model_cfg.random_init", "false"], "ntt fetch dinov3_small brings them"),
    "missing weights": (["--model.model_cfg.encoder_ckpt_path", "nowhere.pth"], "no weights at nowhere.pth"),
    "missing references": (["--data.references", "nowhere.json"], "nowhere.json"),
    "missing images": (["--data.reference_images", "nowhere"], "there is no folder nowhere"),
    "missing targets": (["--data.targets", "nowhere.json"], "there is no file nowhere.json"),
    "unknown key": (["--model.model_cfg.encoder_cfg.colour", "red"], "colour"),
    "mistyped": (["--model.model_cfg.sam2_infer_cfgs.points_per_side", "many"], "points_per_side.*many"),
    "out of range": (["--model.model_cfg.sam2_infer_cfgs.iou_thr", "3"], "expected between 0 and 1"),
    "precision": (["--model.model_cfg.precision", "fp8"], "fp8"),
    "selection": (["--model.model_cfg.sam2_infer_cfgs.prompt_selection", "all"], "all"),
    "prompts": (["--model.model_cfg.sam2_infer_cfgs.max_prompts", "0"], "max_prompts is 0, expected at least 1"),
    "cache": (["--model.model_cfg.feature_cache.folder", str(BASE)], "cannot keep features in"),
    "cache size": (["--model.model_cfg.feature_cache.max_gb", "-1"], "max_gb is -1.0, expected more than 0"),
    "batch": (["--data.batch_size", "0"], "batch_size is 0, expected at least 1"),
    "mode": (["--model.test_mode", "fill"], "fill_memory"),
    "split": (["--data.split", "coco20i_fold9"], "coco20i_fold"),
    "class": (["--data.class_names", "[disc, circle]"], "circle"),
    "no memory file": (["--model.test_mode", "test"], "--ckpt_path FILE"),
    "no out path": (["--model.test_mode", "fill_memory"], "--out_path FILE"),
    "missing memory": (["--model.test_mode", "test", "--ckpt_path", "no.safetensors"], "no memory bank at"),
    "trainer": (["--trainer.devicess", "2"], "devicess"),
    "config": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "no batches": (["--trainer.limit_test_batches", "0"], "limit_test_batches is 0"),
    "limit": (["--trainer.limit_test_batches", "1"], "1 of 4 references were read.*data.max_targets"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_line_and_status_2(
    case: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, remedy = BAD[case]
    assert run(*small, *args, into=tmp_path / "out") == 2
    assert re.search(remedy, one_error(capsys))
    assert not (tmp_path / "out" / "results.json").exists()


def test_bad_files_are_one_line_and_status_2(
    small: list[str], data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong_size = {"size": [5, 5], "counts": "05d0"}
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    cases: list[tuple[list[str | Path], str]] = [
        (["--model.model_cfg.encoder_ckpt_path", wrong_encoder(tmp_path)], "does not hold dinov3_small"),
        (["--model.model_cfg.encoder_ckpt_path", tmp_path / "other.safetensors"], "in no known encoder layout"),
        (["--model.model_cfg.sam2_ckpt_path", tmp_path / "other.safetensors"], "other.safetensors"),
        (["--data.references", broken_json(data, tmp_path, segmentation=wrong_size)], "5x5|5, 5"),
        (["--data.references", broken_json(data, tmp_path, bbox=[500, 500, 9, 9])], "annotation 10 .* covers nothing"),
        (["--data.reference_images", no_image(data, tmp_path)], "001.jpg"),
        (["--model.test_mode", "test", "--ckpt_path", foreign_bank(tmp_path)], "filled with another encoder"),
    ]
    for args, message in cases:
        assert run(*small, *args, into=tmp_path / "out") == 2
        assert re.search(message, one_error(capsys))
    assert not (tmp_path / "out" / "results.json").exists()


def test_debug_shows_the_traceback(small: list[str], tmp_path: Path) -> None:
    from no_time_to_train.errors import ConfigError

    with pytest.raises(ConfigError, match="--ckpt_path"):
        run(*small, "--debug", "--model.test_mode", "test", into=tmp_path)


def test_fit_says_that_there_is_nothing_to_train(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *small, "--trainer.max_epochs", "1", into=tmp_path) == 2
    assert "run test, validate or predict" in one_error(capsys)
