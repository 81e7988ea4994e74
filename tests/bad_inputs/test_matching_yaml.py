"""`run_lightening.py` with the matching baselines: YAML, options, modes, paths."""

import json

import pytest

from tests.bad_inputs.conftest import CONFIGS, Judge
from tests.bad_inputs.table import Case
from tests.bad_inputs.test_predict import memory

CFG = "--model.model_cfg"


def option(name: str, *more: str, says: list[str]) -> Case:
    """The main job with one option more."""
    return Case(f"match: {name}", lambda f: f.match(*more), says)


def written(name: str, content: str | bytes, says: list[str]) -> Case:
    """The main job with a YAML of one's own."""
    return Case(f"match: a YAML {name}", lambda f: ["run_lightening", "--config", f.text("own.yaml", content)], says)


def added(name: str, content: str, says: list[str]) -> Case:
    """The main job with a YAML after the small one."""
    return Case(f"match: {name}", lambda f: f.match("--config", f.text("own.yaml", content)), says)


CASES = [
    option("no YAML", "--config", "nowhere.yaml", says=["no file nowhere.yaml", "pl_configs/"]),
    Case(
        "match: a folder as YAML",
        lambda f: f.match("--config", f.folder("own.yaml")),
        ["no file", "own.yaml", "pl_configs/"],
    ),
    Case(
        "match: a YAML that may not be read",
        lambda f: f.match("--config", f.unreadable(f.shop.matching)),
        ["matching.yaml", "permission"],
    ),
    written("that is empty", "", ["own.yaml holds nothing", "correct it"]),
    written("with tabs", "model:\n\tinit_args: 1\n", ["own.yaml", "line 2", "correct it"]),
    written("that is a list", "- model\n", ["own.yaml", "correct it"]),
    written("that is not text", b"\xff\xfe\x00\x01", ["own.yaml", "correct it"]),
    written("that makes an object", "model: !!python/object/apply:os.system ['touch x']\n", ["own.yaml", "correct it"]),
    added("a key twice", "trainer:\n  devices: 1\n  devices: 2\n", ["own.yaml", "devices", "twice", "correct it"]),
    added("an unknown part", "modell:\n  a: 1\n", ["own.yaml: modell is not a setting", "did you mean model?"]),
    added(
        "an unknown setting of the trainer",
        "trainer:\n  device: 2\n",
        ["trainer has no setting 'device'"],
    ),
    added("a trainer that is a list", "trainer: [1]\n", ["trainer is [1]", "expected settings by name"]),
    added("devices in words", "trainer:\n  devices: many\n", ["`devices`", "int > 0", "correct it"]),
    Case(
        "match: a preset alone",
        lambda f: ["run_lightening", "--config", CONFIGS / "presets" / "fast.yaml"],
        ["fast.yaml does not say which model", "pl_configs/"],
    ),
    Case("match: no YAML at all", lambda f: ["run_lightening"], ["model", "pl_configs/"]),
    option("an unknown subcommand", "tset", says=["tset", "--help"]),
    option("an unknown option", "--colour", "red", says=["colour is not a setting of a run", "it takes"]),
    Case("match: fit", lambda f: f.match("fit", "--trainer.max_epochs", "1"), ["is not trained", "run test"]),
    # Model ---------------------------------------------------------------------------------------------------------
    added("an unknown class", "model:\n  class_path: no_time_to_train.Nothing\n", ["model", "Nothing", "--help"]),
    added("a class that is not a module", "model:\n  class_path: pathlib.Path\n", ["model", "Path", "--help"]),
    option("an unknown encoder", f"{CFG}.encoder_cfg.name", "dinov3_smal", says=["did you mean dinov3_small"]),
    option("no size", f"{CFG}.encoder_cfg.img_size", "0", says=["img_size is 0", "at least 1"]),
    option("a size between patches", f"{CFG}.encoder_cfg.img_size", "100", says=["100x100", "use 96x96"]),
    option("a size in words", f"{CFG}.encoder_cfg.img_size", "large", says=["img_size", "large"]),
    option(
        "a squeezed image", f"{CFG}.encoder_cfg.resize_policy", "squeeze", says=["resize_policy", "squeeze", "stretch"]
    ),
    option("an unknown protocol", f"{CFG}.protocol", "paper", says=["protocol", "paper", "published", "improved"]),
    option(
        "a protocol without a second way to put prompts",
        *(f"{CFG}.protocol", "published", f"{CFG}.sam2_infer_cfgs.prompt_selection", "prior"),
        says=["protocol is published and sam2_infer_cfgs.prompt_selection is prior", "or protocol to improved"],
    ),
    option("a small crop", f"{CFG}.memory_bank_cfg.crop_scale", "0.1", says=["crop_scale is 0.1", "at least 1"]),
    option("a crop that is not a number", f"{CFG}.memory_bank_cfg.crop_scale", ".nan", says=["crop_scale is nan"]),
    option("no softness", f"{CFG}.memory_bank_cfg.negative_sigma", "-1", says=["negative_sigma is -1", "more than 0"]),
    option(
        "negative components",
        *(f"{CFG}.memory_bank_cfg.debias.enabled", "true", f"{CFG}.memory_bank_cfg.debias.components", "-5"),
        says=["components", "-5"],
    ),
    option(
        "no instances", f"{CFG}.sam2_infer_cfgs.num_out_instance", "0", says=["num_out_instance is 0", "at least 1"]
    ),
    option("a mask threshold of 40", f"{CFG}.sam2_infer_cfgs.nms_thr", "40", says=["nms_thr is 40", "between 0 and 1"]),
    option("automatic masks' settings", f"{CFG}.sam2_amg_cfg.points_per_side", "4", says=["sam2_amg_cfg has no place"]),
    option("a score in percent", "--model.overlay_score", "30", says=["overlay_score is 30", "0 to 1"]),
    option("negative overlays", "--model.overlays", "-5", says=["overlays is -5", "-1 draws all"]),
    option("an unknown mode", "--model.test_mode", "fill", says=["test_mode", "fill", "fill_memory"]),
    option("a mode without its memory", "--model.test_mode", "test", says=["begins with a memory", "--ckpt_path FILE"]),
    option(
        "a mode without its output", "--model.test_mode", "fill_memory", says=["writes a memory", "--out_path FILE"]
    ),
    option(
        "a memory that is not there",
        *("--model.test_mode", "test", "--ckpt_path", "no.safetensors"),
        says=["no memory bank at no.safetensors", "fill_memory"],
    ),
    option(
        "a checkpoint that is not there",
        "--model.test_mode",
        "test",
        "--ckpt_path",
        "no.ckpt",
        says=["no checkpoint no.ckpt", "check"],
    ),
    Case(
        "match: memory of another encoder",
        lambda f: f.match(
            "--model.test_mode", "test", "--ckpt_path", memory(f, width=64, fingerprint="another-encoder")
        ),
        ["filled with another-encoder", "fill it anew from the references"],
    ),
    Case(
        "match: a checkpoint that is text",
        lambda f: f.match("--model.test_mode", "test", "--ckpt_path", f.text("a.ckpt")),
        ["a.ckpt is not a checkpoint, or not a whole one", "name another one"],
    ),
    Case(
        "match: memory under a file",
        lambda f: f.match("--model.test_mode", "fill_memory", "--out_path", f.under_a_file / "memory.safetensors"),
        ["cannot write", "a_file", "name a folder"],
    ),
    # Data ----------------------------------------------------------------------------------------------------------
    option("an empty batch", "--data.batch_size", "0", says=["batch_size is 0", "at least 1"]),
    option("negative workers", "--data.num_workers", "-1", says=["num_workers is -1", "at least 0"]),
    option("no targets", "--data.max_targets", "0", says=["max_targets is 0", "at least 1"]),
    option("targets in words", "--data.max_targets", "few", says=["max_targets", "few"]),
    option("an unknown category", "--data.class_names", "[disc, circle]", says=["'circle'", "disc, square"]),
    option("a class twice", "--data.class_names", "[disc, disc]", says=["disc twice", "each class once"]),
    option("no classes", "--data.class_names", "[]", says=["no class names", "each class once"]),
    option("a split and classes", "--data.split", "coco20i_fold0", "--data.class_names", "[disc]", says=["both split"]),
    option("no folder of targets", "--data.target_images", "nowhere", says=["no folder nowhere", "check the path"]),
    option("a folder of targets not set", "--data.target_images", "null", says=["target_images is not set"]),
    Case(
        "match: a folder without targets",
        lambda f: f.match("--data.targets", "null", "--data.target_images", f.folder("empty")),
        ["no images in", "empty", "name a folder"],
    ),
    Case(
        "match: a target that is not an image",
        lambda f: f.match("--data.targets", "null", "--data.target_images", f.text("photos/a.jpg").parent),
        ["a.jpg is not an image", "check the file"],
    ),
    Case(
        "match: targets without images",
        lambda f: f.match("--data.targets", f.text("t.json", json.dumps({"images": [], "categories": []}))),
        ["t.json", "no category 'disc'"],
    ),
    added(
        "data of a training",
        "data:\n  class_path: no_time_to_train.training.distill.datamodule.ViewsDataModule\n"
        "  init_args:\n    scenes: s\n",
        ["ViewsDataModule"],
    ),
    # Trainer -------------------------------------------------------------------------------------------------------
    option("no devices", "--trainer.accelerator", "cpu", "--trainer.devices", "0", says=["devices", "0"]),
    option("an unknown accelerator", "--trainer.accelerator", "abacus", says=["abacus", "cpu"]),
    option("a missing accelerator", "--trainer.accelerator", "tpu", says=["trainer", "torch_xla", "correct it"]),
    option("an unknown precision", "--trainer.precision", "fp8", says=["precision", "fp8"]),
    option("an unknown strategy", "--trainer.strategy", "alone", says=["alone", "ddp"]),
    option("a seed in words", "--seed_everything", "first", says=["seed_everything", "first"]),
    option("a negative seed", "--seed_everything", "-1", says=["seed", "-1"]),
    option("negative batches", "--trainer.limit_test_batches", "-1", says=["limit_test_batches", "-1"]),
    Case(
        "match: results under a file",
        lambda f: f.match("--trainer.default_root_dir", f.under_a_file),
        ["cannot write", "a_file", "trainer.default_root_dir"],
    ),
    Case(
        "match: results where nobody may write",
        lambda f: f.match("--trainer.default_root_dir", f.read_only()),
        ["cannot write", "read_only", "Permission denied", "trainer.default_root_dir"],
    ),
    Case(
        "match: a full disk",
        lambda f: f.match("--trainer.default_root_dir", f.disk("size=1m,nr_inodes=1")),
        ["cannot write", "No space left"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
