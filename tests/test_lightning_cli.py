"""The main job through the command line, on small stand-ins: every YAML, every mode, every kind of bad input."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from no_time_to_train.lightning_cli import main
from no_time_to_train.matching import MemoryBank
from no_time_to_train.models.encoder import build_encoder_from_checkpoint
from no_time_to_train.run_locks import sole_run
from tests.conftest import DATA
from tests.tiny import TinyData, small_model_arguments, write_config, write_dataset

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "pl_configs").glob("*.yaml"))
MATCHERS = [path for path in CONFIGS if re.search("Sam2MatcherLightningModel|QuickstartDemo", path.read_text())]
BASE = ROOT / "pl_configs" / "matching_baseline_dinov3_test.yaml"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    # Lightning's own, which a caller cannot mend: workers are not worth their start for a handful of images.
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "made here")


@pytest.fixture(scope="module")
def small(sam2: Path, data: TinyData) -> list[str]:
    """Arguments that make the base YAML small and give it data."""
    grid = ["--model.model_cfg.sam2_infer_cfgs.points_per_side", "4"]
    progress = ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "null"]
    return ["--config", str(BASE), *small_model_arguments(sam2), *grid, *data.arguments, *progress]


def run(*args: str | Path, into: Path) -> int:
    return main([*(str(arg) for arg in args), "--trainer.default_root_dir", str(into)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


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


@pytest.mark.parametrize("preset", ["exact", "fast"])
def test_presets_go_over_any_configuration(small: list[str], whole_run: Path, tmp_path: Path, preset: str) -> None:
    over = ["--config", str(ROOT / "pl_configs" / "presets" / f"{preset}.yaml")]
    base, rest = small[:2], small[2:]
    # Worker processes are forked, which JAX, at work in other tests, warns of.
    assert run(*base, *over, *rest, "--data.num_workers", "0", into=tmp_path) == 0
    used = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["model_cfg"]
    assert used["sam2_infer_cfgs"]["iou_thr"] == 0.4
    assert used["precision"] == {"exact": "fp32", "fast": "bf16"}[preset]
    assert used["sam2_infer_cfgs"]["prompt_selection"] == {"exact": "grid", "fast": "prior"}[preset]
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
    assert MemoryBank.load(tmp_path / "memory.safetensors").encoder_fingerprint == f"{plain} debias4"


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
        done = run_processes(2, data, sam2, tmp_path / "out")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: another run_lightening.py is writing to" in done.stderr
    assert "Traceback" not in done.stderr


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
    demo = ["--model", "no_time_to_train.pl_wrapper.quickstart_demo_pl.QuickstartDemo"]
    assert run(*arguments[:2], *demo, *arguments[2:], into=out / "demo") == 0
    assert str(out / "demo" / "overlays") in capsys.readouterr().out


def run_processes(devices: int, data: TinyData, sam2: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the main job in as many processes, of one thread each: sums over other numbers of threads differ."""
    command = [
        *(sys.executable, str(ROOT / "run_lightening.py"), "--config", str(BASE)),
        *(*small_model_arguments(sam2), *data.arguments, "--data.negative_references", str(data.negatives)),
        *("--model.model_cfg.sam2_infer_cfgs.points_per_side", "4", "--model.overlays", "0"),
        *("--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", str(devices), "--trainer.default_root_dir", str(folder)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


@pytest.mark.parametrize("targets", [5, 1])
def test_two_processes_equal_one(targets: int, sam2: Path, tmp_path: Path) -> None:
    """Any number of references and images: with one target, the second process gets none."""
    data = write_dataset(tmp_path / "data", shots=3 if targets == 5 else 1, targets=targets)
    for devices in (1, 2):
        done = run_processes(devices, data, sam2, tmp_path / str(devices))
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
    done = run_processes(2, data, sam2, tmp_path / "out")
    errors = sorted(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 2
    assert len(errors) == 2
    assert "004.jpg" in errors[0]
    assert "has lost another one" in errors[1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error, and see that it is one."""
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in lines)
    return errors[0]


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


def test_real_weights_run_without_a_warning(
    sam2: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are there, in a full-size file, are loaded and nothing is said of random ones."""
    from no_time_to_train.models.encoder import build_torch_encoder
    from no_time_to_train.models.sam2 import build_sam2

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


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_a_launched_process_ends_after_the_first_one(launcher: str, tmp_path: Path) -> None:
    """Lightning kills the first process when it sees that another one ended badly."""
    child = (
        "import pathlib, sys; from no_time_to_train import lightning_cli;"
        "pathlib.Path(sys.argv[1], 'ready').touch();"
        "lightning_cli._let_the_first_process_speak(); pathlib.Path(sys.argv[1], 'ended').touch()"
    )
    parent = (
        "import os, pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], env=os.environ);"
        "ready, ended = (pathlib.Path(sys.argv[1], name) for name in ('ready', 'ended'));"
        "[time.sleep(0.05) for _ in iter(ready.exists, True)];"
        "time.sleep(1.5); print(ended.exists())"
    )
    environment = {**os.environ, "LOCAL_RANK": "1"} | ({"TORCHELASTIC_RUN_ID": "x"} if launcher == "torchrun" else {})
    done = subprocess.run(
        [sys.executable, "-c", parent, str(tmp_path), child],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(launcher == "torchrun")
    for _ in range(100):
        if (tmp_path / "ended").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "ended").exists()


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
