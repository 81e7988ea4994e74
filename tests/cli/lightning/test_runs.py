"""The main job through the command line, on small stand-ins: every YAML, every mode, every kind of data."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from no_time_to_train.matching import MemoryBank
from tests.cli.lightning.runs import ROOT, one_error, read, run
from tests.tiny import TinyData, small_model_arguments

CONFIGS = sorted((ROOT / "pl_configs").glob("*.yaml"))
MATCHERS = [path for path in CONFIGS if re.search("Sam2MatcherLightningModel|QuickstartDemo", path.read_text())]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    # Lightning's own, which a caller cannot mend: workers are not worth their start for a handful of images.
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


@pytest.mark.parametrize("config", MATCHERS, ids=lambda path: path.stem)
def test_every_yaml_runs_on_small_stand_ins(config: Path, sam2: Path, data: TinyData, tmp_path: Path) -> None:
    points = "sam2_amg_cfg" if "sam2_amg_cfg" in config.read_text() else "sam2_infer_cfgs"
    args = ["--config", str(config), *small_model_arguments(sam2), f"--model.model_cfg.{points}.points_per_side", "4"]
    if "ReferenceTargetDataModule" in config.read_text():
        classes = ["--data.split", "null", "--data.class_names", "null", "--data.num_workers", "0"]
        args += [*data.arguments, *classes]
    else:
        small = {"root": tmp_path / "shapes", "size": 64, "shots": 1, "num_targets": 2}
        args += [text for name, value in small.items() for text in (f"--data.{name}", str(value))]
    assert run(*args, into=tmp_path) == 0
    metrics = read(tmp_path / "metrics.json")
    assert metrics["random_weights"] == ["encoder", "SAM2"]
    assert set(metrics) >= {"bbox", "segm"}
    assert isinstance(read(tmp_path / "results.json"), list)


def test_all_yamls_are_of_a_known_kind() -> None:
    trainings = [
        path for path in CONFIGS if path.stem.startswith(("train_", "distill_"))
    ]  # tests/pl_wrapper runs these
    assert len(MATCHERS) >= 8
    assert sorted(MATCHERS + trainings) == CONFIGS


@pytest.fixture(scope="module")
def whole_run(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    assert run(*small, into=folder) == 0
    return folder


def test_full_run_writes_everything(whole_run: Path, data: TinyData) -> None:
    metrics = read(whole_run / "metrics.json")
    assert metrics["encoder"] == "dinov3_small"
    assert metrics["images"] == 5
    assert set(metrics["segm"]["per_class"]) == {"disc", "square"}
    results = read(whole_run / "results.json")
    assert len(results) == metrics["instances"] > 0
    ids = {image["id"] for image in read(data.targets)["images"]}
    assert {result["image_id"] for result in results} <= ids
    assert {result["category_id"] for result in results} <= {3, 7}
    dataset = read(whole_run / "predictions.json")
    assert [image["id"] for image in dataset["images"]] == [image["id"] for image in read(data.targets)["images"]]
    assert [{key: found[key] for key in results[0]} for found in dataset["annotations"]] == results
    assert len(list((whole_run / "overlays").glob("*.png"))) == 5
    assert MemoryBank.load(whole_run / "memory.safetensors").counts() == [2, 2]
    assert yaml.safe_load((whole_run / "config.yaml").read_text())["seed_everything"] == 33


def test_an_interrupted_run_leaves_no_metrics_of_another(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    """They are written last, and are put away before anything else of a run is written."""
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    metrics = tmp_path / "metrics.json"

    def interrupted(self: MemoryBank, path: Path) -> None:
        assert not metrics.exists()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBank, "save", interrupted)
        assert run(*small, "--seed_everything", "34", into=tmp_path) == 2
    assert not metrics.exists()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed_everything"] == 34
    assert run(*small, into=tmp_path) == 0
    assert read(metrics)["instances"] == read(whole_run / "metrics.json")["instances"]


def test_bad_input_loses_nothing_of_an_earlier_run(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    assert run(*small, "--data.references", tmp_path / "nowhere.json", into=tmp_path) == 2
    assert run(*small, "--model.model_cfg.encoder_ckpt_path", tmp_path / "nowhere.pth", into=tmp_path) == 2
    for path in whole_run.iterdir():
        if path.is_file():
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_steps_alone_give_what_one_run_gives(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    filled, finished = tmp_path / "filled.safetensors", tmp_path / "finished.safetensors"
    mode = "--model.test_mode"
    assert run(*small, mode, "fill_memory", "--out_path", filled, into=tmp_path) == 0
    paths: list[str | Path] = ["--ckpt_path", filled, "--out_path", finished]
    assert run(*small, mode, "postprocess_memory", *paths, into=tmp_path) == 0
    assert not (tmp_path / "results.json").exists()
    assert run(*small, mode, "test", "--ckpt_path", finished, into=tmp_path) == 0
    assert read(tmp_path / "results.json") == read(whole_run / "results.json")


def test_negative_references_in_one_run_and_in_steps(small: list[str], data: TinyData, tmp_path: Path) -> None:
    negatives = ["--data.negative_references", str(data.negatives)]
    assert run(*small, *negatives, into=tmp_path / "one") == 0
    assert MemoryBank.load(tmp_path / "one" / "memory.safetensors").counts(negative=True) == [0, 1]
    filled, whole = tmp_path / "filled.safetensors", tmp_path / "whole.safetensors"
    assert run(*small, "--model.test_mode", "fill_memory", "--out_path", filled, into=tmp_path) == 0
    paths: list[str | Path] = ["--ckpt_path", filled, "--out_path", whole]
    assert run(*small, *negatives, "--model.test_mode", "fill_memory_neg", *paths, into=tmp_path) == 0
    assert run(*small, "--model.test_mode", "test", "--ckpt_path", whole, into=tmp_path / "steps") == 0
    assert read(tmp_path / "steps" / "results.json") == read(tmp_path / "one" / "results.json")


@pytest.mark.parametrize("mode", ["test", "fill_memory_neg"])
def test_a_memory_of_other_classes_than_named_is_refused(
    mode: str, small: list[str], data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = tmp_path / "filled.safetensors"
    assert run(*small, "--model.test_mode", "fill_memory", "--out_path", filled, into=tmp_path / "fill") == 0
    step: list[str | Path] = ["--model.test_mode", mode, "--ckpt_path", filled]
    step += ["--data.negative_references", str(data.negatives)]
    step += ["--out_path", tmp_path / "whole.safetensors"] if mode == "fill_memory_neg" else []
    capsys.readouterr()
    assert run(*small, *step, "--data.class_names", "[disc]", into=tmp_path / "out") == 2
    assert re.search(r"data\.class_names or data\.split .*one of the two has square", one_error(capsys))
    assert run(*small, *step, "--data.class_names", "[square, disc]", into=tmp_path / "out") == 0


def test_negative_references_that_are_not_read_are_told(
    small: list[str], data: TinyData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled = tmp_path / "filled.safetensors"
    assert run(*small, "--model.test_mode", "fill_memory", "--out_path", filled, into=tmp_path) == 0
    negatives = ["--data.negative_references", str(data.negatives)]
    assert run(*small, *negatives, "--model.test_mode", "test", "--ckpt_path", filled, into=tmp_path) == 0
    assert "data.negative_references are not used" in caplog.text


@pytest.mark.parametrize("option", ["references", "targets"])
def test_annotations_are_not_replaced_by_results(
    option: str, small: list[str], data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "predictions.json"
    own.write_bytes(getattr(data, option).read_bytes())
    assert run(*small, f"--data.{option}", own, into=tmp_path) == 2
    assert f"data.{option} is " in one_error(capsys)
    assert own.read_bytes() == getattr(data, option).read_bytes()


def test_a_limit_on_batches_does_not_leave_negative_references_out(
    small: list[str], data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, filled = read(data.negatives), tmp_path / "filled.safetensors"
    first = document["annotations"][0]
    document["annotations"] = [first | {"id": number} for number in range(1, 7)]
    (tmp_path / "negatives.json").write_text(json.dumps(document))
    assert run(*small, "--model.test_mode", "fill_memory", "--out_path", filled, into=tmp_path) == 0
    negatives = ["--data.negative_references", str(tmp_path / "negatives.json")]
    step: list[str | Path] = ["--model.test_mode", "fill_memory_neg", "--ckpt_path", filled]
    step += ["--out_path", tmp_path / "whole.safetensors"]
    # There are 4 references, all of which are read.
    modes: list[list[str | Path]] = [[], step]
    for mode in modes:
        capsys.readouterr()
        assert run(*small, *negatives, *mode, "--trainer.limit_test_batches", "5", into=tmp_path / "out") == 2
        assert "5 of 6 negative references were read" in one_error(capsys)
    assert not (tmp_path / "out" / "results.json").exists()
    assert not (tmp_path / "whole.safetensors").exists()


def test_reference_pictures(small: list[str], tmp_path: Path) -> None:
    assert run(*small, "--model.test_mode", "vis_memory", into=tmp_path) == 0
    pictures = sorted((tmp_path / "memory").glob("*.png"))
    assert [path.name.split("_")[0] for path in pictures] == ["disc", "disc", "square", "square"]
    with Image.open(pictures[0]) as picture:
        assert np.asarray(picture).std() > 0


def test_validate_and_predict(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    assert run("validate", *small, into=tmp_path / "validate") == 0
    assert read(tmp_path / "validate" / "results.json") == read(whole_run / "results.json")
    assert run("predict", *small, "--data.targets", "null", into=tmp_path / "predict") == 0
    metrics = read(tmp_path / "predict" / "metrics.json")
    # Every image of the folder is a target, and there is nothing to compare with.
    assert metrics["images"] == 10
    assert metrics["categories"] == {"3": "disc", "7": "square"}
    assert "segm" not in metrics
    # Nothing but this names the files.
    folder = tmp_path / "predict"
    dataset, results = read(folder / "predictions.json"), read(folder / "results.json")
    root = folder / dataset["info"]["image_root"]
    assert [image["id"] for image in dataset["images"]] == list(range(1, 11))
    for image in dataset["images"]:
        with Image.open(root / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert dataset["categories"] == [{"id": 3, "name": "disc"}, {"id": 7, "name": "square"}]
    assert [(found["image_id"], found["segmentation"]) for found in dataset["annotations"]] == [
        (result["image_id"], result["segmentation"]) for result in results
    ]
    assert all(found["area"] > 0 for found in dataset["annotations"])


def test_box_only_references_get_their_masks_from_sam2(small: list[str], data: TinyData, tmp_path: Path) -> None:
    document = read(data.references)
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    assert run(*small, "--data.references", tmp_path / "boxes.json", into=tmp_path) == 0
    assert MemoryBank.load(tmp_path / "memory.safetensors").counts() == [2, 2]


def test_reference_sets_of_the_original_project(
    small: list[str], data: TinyData, whole_run: Path, tmp_path: Path
) -> None:
    """A pickle that names the references by id, with the annotations that they are of."""
    named: dict[int, list[dict[str, Any]]] = {}
    for annotation in read(data.references)["annotations"]:
        entry = {"img_id": annotation["image_id"], "ann_ids": [annotation["id"]]}
        named.setdefault(annotation["category_id"], []).append(entry)
    (tmp_path / "refs.pkl").write_bytes(pickle.dumps(named))
    args: list[str | Path] = [
        "--data.references",
        tmp_path / "refs.pkl",
        "--data.reference_annotations",
        data.references,
    ]
    assert run(*small, *args, into=tmp_path) == 0
    assert read(tmp_path / "results.json") == read(whole_run / "results.json")


@pytest.mark.parametrize("preset", ["exact", "fast", "published"])
def test_presets_go_over_any_configuration(small: list[str], whole_run: Path, tmp_path: Path, preset: str) -> None:
    over = ["--config", str(ROOT / "pl_configs" / "presets" / f"{preset}.yaml")]
    base, rest = small[:2], small[2:]
    # Worker processes are forked, which JAX, at work in other tests, warns of.
    assert run(*base, *over, *rest, "--data.num_workers", "0", into=tmp_path) == 0
    used = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["model_cfg"]
    assert used["sam2_infer_cfgs"]["iou_thr"] == 0.4
    assert used["precision"] == ("bf16" if preset == "fast" else "fp32")
    assert used["sam2_infer_cfgs"]["prompt_selection"] == ("prior" if preset == "fast" else "grid")
    assert used["protocol"] == read(tmp_path / "metrics.json")["protocol"]
    assert used["protocol"] == ("published" if preset == "published" else "improved")
    same = read(tmp_path / "results.json") == read(whole_run / "results.json")
    assert same is (preset == "exact")


def test_a_second_run_from_the_cache_gives_the_same(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    cache = ["--model.model_cfg.feature_cache.folder", str(tmp_path / "cache")]
    for name in ("first", "second"):
        assert run(*small, *cache, into=tmp_path / name) == 0
        assert read(tmp_path / name / "results.json") == read(whole_run / "results.json")
    # Features of 4 references and 5 targets, and an embedding and masks of each target.
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4 + 3 * 5


def test_no_cache_by_command_line(small: list[str], tmp_path: Path) -> None:
    assert run(*small, "--model.model_cfg.feature_cache.folder", "null", into=tmp_path) == 0
    assert not Path("None").exists()


def test_targets_in_batches_give_much_the_same(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    assert run(*small, "--data.batch_size", "2", into=tmp_path) == 0
    got, expected = read(tmp_path / "results.json"), read(whole_run / "results.json")
    assert [result["image_id"] for result in got] == [result["image_id"] for result in expected]
    # Products of other shapes round otherwise.
    for one, other in zip(got, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_bf16_mixed_finds_much_the_same(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    assert run(*small, "--trainer.precision", "bf16-mixed", into=tmp_path) == 0
    mixed, full = read(tmp_path / "results.json"), read(whole_run / "results.json")
    assert len(mixed) > 0
    # Random features are nearly parallel: their cosines, and so the best scores, hardly move.
    assert abs(max(r["score"] for r in mixed) - max(r["score"] for r in full)) < 0.05


def test_a_quick_look_at_the_first_targets(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    assert run(*small, "--data.max_targets", "2", into=tmp_path) == 0
    whole, ids = read(whole_run / "results.json"), {5, 6}
    assert read(tmp_path / "results.json") == [result for result in whole if result["image_id"] in ids]
    assert {image["id"] for image in read(tmp_path / "predictions.json")["images"]} == ids
    assert read(tmp_path / "metrics.json")["images"] == 2


def test_debiasing_by_yaml(small: list[str], whole_run: Path, tmp_path: Path) -> None:
    switch = "--model.model_cfg.memory_bank_cfg.debias"
    assert run(*small, f"{switch}.enabled", "true", f"{switch}.components", "4", into=tmp_path) == 0
    plain = MemoryBank.load(whole_run / "memory.safetensors").encoder_fingerprint
    assert MemoryBank.load(tmp_path / "memory.safetensors").encoder_fingerprint == f"{plain} debias4 rank"


def test_names_that_a_terminal_or_rich_would_take_for_commands(
    small: list[str], data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of classes and folders are text, whoever gave them."""
    name = "[/red] :smile: [bold]\x1b[2J\x1b]0;title\x07"
    files = []
    for path in (data.references, data.targets):
        document = read(path)
        document["categories"][0]["name"] = name
        files.append(tmp_path / path.name)
        files[-1].write_text(json.dumps(document))
    arguments = [*small, "--data.references", str(files[0]), "--data.targets", str(files[1])]
    out = tmp_path / "[/red]:smile:"
    assert run(*arguments, into=out) == 0
    shown = capsys.readouterr()
    assert name in read(out / "metrics.json")["categories"].values()
    assert str(out / "predictions.json") in shown.out
    assert "[/red] :smile:" in shown.out
    assert "\x1b" not in shown.out + shown.err
    demo = ["--model", "no_time_to_train.training.quickstart.demo_module.QuickstartDemo"]
    assert run(*arguments[:2], *demo, *arguments[2:], into=out / "demo") == 0
    assert str(out / "demo" / "overlays") in capsys.readouterr().out


def test_warnings_that_are_errors_end_no_run(tmp_path: Path) -> None:
    """Lightning calls what other libraries have deprecated, which no user of this package can mend."""
    command = [
        *(sys.executable, "run_lightening.py", "--config", "pl_configs/quickstart.yaml", "--model.overlays", "0"),
        *("--data.num_targets", "2", "--data.shots", "1", "--trainer.default_root_dir", str(tmp_path)),
        *("--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").is_file()
