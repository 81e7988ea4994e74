"""`run_lightening.py fit`: distillation, and the trainings of the shipped models."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.bad_inputs.conftest import CONFIGS, Judge
from tests.bad_inputs.table import Case, Given
from tests.bad_inputs.test_references import Runs


def fit(name: str, *more: str, says: list[str]) -> Case:
    """A distillation with one option more."""
    return Case(f"distill: {name}", lambda f: f.fit(*more), says)


def train(kind: str, name: str, *more: str, says: list[str]) -> Case:
    """A training of a shipped model, which draws few scenes if it comes to that."""

    def argv(f: Given) -> list[str | Path]:
        return [
            *("run_lightening", "fit", "--config", CONFIGS / f"train_quickstart_{kind}.yaml"),
            *(("--model.config", f.shop.sam2) if kind == "sam2" else ("--model.img_size", "64")),
            *("--data.root", f.shop.scenes, "--data.size", "64", "--data.num_scenes", "12", "--data.num_val", "4"),
            *("--data.batch_size", "4", "--model.output", f.out / "new", "--trainer.default_root_dir", f.out),
            *("--trainer.logger", "false", "--trainer.callbacks", "null", "--trainer.enable_checkpointing", "false"),
            *(
                "--trainer.max_steps",
                "2",
                "--trainer.val_check_interval",
                "1.0",
                "--trainer.precision",
                "32-true",
                *more,
            ),
        ]

    return Case(f"train {kind}: {name}", argv, says)


def checkpoint(content: object) -> Callable[[Given], Path]:
    def write(f: Given) -> Path:
        torch.save(content, f.path("last.ckpt"))
        return f.path("last.ckpt")

    return write


def resumed(name: str, make: Callable[[Given], str | Path], says: list[str]) -> Case:
    return Case(f"distill: {name}", lambda f: f.fit("--ckpt_path", make(f)), says)


def photos(*files: str) -> Callable[[Given], str]:
    """Write images of which some are none, and return the options that name them."""

    def write(f: Given) -> str:
        folder = f.folder("photos", *(file for file in files if file.startswith("broken")))
        stream = io.BytesIO()
        Image.new("RGB", (80, 70), (200, 90, 30)).save(stream, "PNG")
        for file in (file for file in files if not file.startswith("broken")):
            f.text(f"photos/{file}", stream.getvalue())
        return str(folder)

    return write


def in_folders(f: Given, folder: str) -> list[str | Path]:
    return f.fit(
        "--data.scenes", "null", "--data.folders", f"[{folder}]", "--data.num_val", "1", "--data.batch_size", "2"
    )


FOREIGN = {"pytorch-lightning_version": "2.6.0", "state_dict": {"x": torch.zeros(2)}, "epoch": 0, "global_step": 1}

CASES = [
    fit("an unknown teacher", "--model.teacher.name", "dinov3_smal", says=["did you mean dinov3_small"]),
    fit(
        "a teacher without weights",
        "--model.teacher.random_init",
        "false",
        says=["no weights of the teacher", "ntt fetch"],
    ),
    fit("a teacher twice", "--model.teacher.folder", "here", says=["the teacher is named twice", "teacher.name"]),
    Case(
        "distill: a teacher's weights that are another's",
        lambda f: f.fit("--model.teacher.ckpt_path", f.shop.sam2_weights),
        ["sam2_weights", "encoder"],
    ),
    fit("an unknown type", "--model.teacher.dtype", "float8", says=["dtype", "float8", "bfloat16"]),
    fit("an unknown student", "--model.student.name", "dinov3_smal", says=["did you mean dinov3_small"]),
    fit("a student's weights not there", "--model.student.ckpt_path", "no.pth", says=["no.pth", "check the path"]),
    fit("a negative weight", "--model.loss.cls", "-1", says=["loss.cls is -1", "0 or more"]),
    fit("a weight that is not a number", "--model.loss.gram", ".nan", says=["loss.gram is nan", "0 or more"]),
    fit(
        "nothing to learn",
        *("--model.loss.cls", "0", "--model.loss.patches", "0", "--model.loss.gram", "0"),
        says=["all 0", "give one of them a weight"],
    ),
    fit("a block that is not there", "--model.loss.layers", "{9: 1}", says=["9", "student", "block"]),
    fit("an unknown term", "--model.loss.colour", "1", says=["loss has no setting colour", "it has cls"]),
    fit("no learning rate", "--model.optimizer.learning_rate", "0", says=["learning_rate is 0", "more than 0"]),
    fit("negative warm-up", "--model.optimizer.warmup_steps", "-5", says=["warmup_steps is -5", "0 or more"]),
    fit("betas above 1", "--model.optimizer.betas", "[2, 3]", says=["betas", "2", "below 1"]),
    fit("a rate in words", "--model.optimizer.learning_rate", "slow", says=["learning_rate", "slow"]),
    # Data ----------------------------------------------------------------------------------------------------------
    fit("no images", "--data.scenes", "null", says=["named by nothing", "data.folders"]),
    fit("images named twice", "--data.folders", "[here]", says=["'folders', 'scenes'", "set one of"]),
    fit("COCO without images", "--data.scenes", "null", "--data.coco", "a.json", says=["data.coco_images"]),
    fit(
        "no folder there",
        "--data.scenes",
        "null",
        "--data.folders",
        "[nowhere]",
        says=["no folder nowhere", "name a folder"],
    ),
    Case(
        "distill: a folder without images",
        lambda f: in_folders(f, str(f.folder("empty"))),
        ["holds no image", "name one"],
    ),
    Case(
        "distill: too many images that are none",
        lambda f: in_folders(f, photos("broken1.jpg", "broken2.jpg", "a.png", "b.png")(f)),
        ["images cannot be read, more than 1 %", "broken", "mend or remove"],
    ),
    Case(
        "distill: fewer images than a batch",
        lambda f: in_folders(f, photos("a.png", "b.png")(f)),
        ["make no batch of 2", "lower data.batch_size"],
    ),
    Case(
        "distill: fewer images than are held out",
        lambda f: in_folders(f, photos("a.png")(f)),
        ["1 of 1 images were to be held out", "lower data.num_val"],
    ),
    Case(
        "distill: COCO without an image",
        lambda f: f.fit(
            *("--data.scenes", "null", "--data.coco", f.text("c.json", '{"images": [], "categories": []}')),
            *("--data.coco_images", f.folder("empty")),
        ),
        ["c.json names no image", "name another"],
    ),
    fit("an empty batch", "--data.batch_size", "0", says=["batch_size is 0", "1 or more"]),
    fit("an empty batch in validation", "--data.val_batch_size", "-1", says=["val_batch_size is -1", "1 or more"]),
    fit("nothing held out", "--data.num_val", "0", says=["num_val is 0", "1 or more"]),
    fit("negative workers", "--data.num_workers", "-2", says=["num_workers is -2", "0 or more"]),
    fit("views without size", "--data.views.size", "0", says=["data.views.size is 0", "at least 1"]),
    fit("a hue of 0.9", "--data.views.hue", "0.9", says=["hue=0.9", "data.views"]),
    fit(
        "an unknown augmentation",
        "--data.views.blur",
        "1",
        says=["data.views has no setting blur", "it has brightness"],
    ),
    Case(
        "distill: views between patches",
        lambda f: [*in_folders(f, photos("a.png", "b.png", "c.png")(f)), "--data.views.size", "65"],
        ["65x65", "patch size 16", "use 64x64"],
    ),
    Case(
        "distill: scenes in a taken folder",
        lambda f: f.fit("--data.scenes", f.out),
        ["out holds something else", "name a new"],
    ),
    Case("distill: scenes under a file", lambda f: f.fit("--data.scenes", f.under_a_file), ["cannot write", "a_file"]),
    # Checkpoints, trainer, output ----------------------------------------------------------------------------------
    resumed("a checkpoint that is not there", lambda f: "no.ckpt", ["no.ckpt", "check the path"]),
    resumed(
        "a checkpoint that is text",
        lambda f: f.text("a.ckpt"),
        ["a.ckpt is not a checkpoint, or not a whole one", "name another"],
    ),
    resumed(
        "a checkpoint that is empty",
        lambda f: f.text("a.ckpt", ""),
        ["a.ckpt is not a checkpoint, or not a whole one", "name another"],
    ),
    resumed(
        "a checkpoint that is a folder",
        lambda f: f.folder("a.ckpt"),
        ["a.ckpt is not a checkpoint, or not a whole one", "name another"],
    ),
    resumed(
        "weights as checkpoint",
        lambda f: f.shop.encoder / "model.safetensors",
        ["model.safetensors is not a checkpoint"],
    ),
    resumed(
        "a checkpoint cut off",
        lambda f: f.cut(checkpoint(FOREIGN)(f)),
        ["last.ckpt is not a checkpoint, or not a whole one"],
    ),
    resumed("a checkpoint of another module", checkpoint(FOREIGN), ["last.ckpt", "another module", "name another"]),
    resumed(
        "a checkpoint without a state",
        checkpoint({"x": 1}),
        ["last.ckpt is not a checkpoint of a training", "name another"],
    ),
    resumed("a checkpoint that runs a command", checkpoint(FOREIGN | {"x": Runs()}), ["last.ckpt", "not loaded"]),
    fit("negative steps", "--trainer.max_steps", "-5", says=["max_steps", "-5"]),
    fit("no devices", "--trainer.devices", "0", says=["devices", "0"]),
    fit("an unknown accelerator", "--trainer.accelerator", "abacus", says=["abacus"]),
    fit("an unknown precision", "--trainer.precision", "fp8", says=["precision", "fp8"]),
    fit("an unknown callback", "--trainer.callbacks", "Nothing", says=["Nothing", "--help"]),
    Case(
        "distill: a student under a file",
        lambda f: f.fit("--model.output", f.under_a_file),
        ["cannot write", "a_file", "name a folder"],
    ),
    Case(
        "distill: a student over somebody's file",
        lambda f: f.fit("--model.output", f.text("student")),
        ["student", "Not a directory", "name a folder"],
    ),
    Case(
        "distill: where nobody may write",
        lambda f: f.fit("--model.output", f.read_only() / "student"),
        ["cannot write", "read_only", "Permission denied"],
    ),
    train("encoder", "an unknown architecture", "--model.name", "dinov3_smal", says=["did you mean dinov3_small"]),
    train("encoder", "weights not there", "--model.init_from", "no.pth", says=["no.pth", "check the path"]),
    train("encoder", "no size", "--model.img_size", "0", says=["0x0", "patch size 16"]),
    train("encoder", "a size between patches", "--model.img_size", "65", says=["65x65", "use 64x64"]),
    train("encoder", "a large crop", "--model.smallest_crop", "2", says=["smallest_crop is 2", "1"]),
    train("encoder", "no learning rate", "--model.learning_rate", "0", says=["learning_rate is 0", "above 0"]),
    train("encoder", "negative warm-up", "--model.warmup_steps", "-1", says=["warmup_steps is -1", "0 or more"]),
    train(
        "encoder",
        "fewer scenes than a batch",
        "--data.num_scenes",
        "5",
        says=["leave no batch of 4", "data.num_scenes"],
    ),
    train("encoder", "a negative seed", "--data.seed", "-1", says=["seed", "-1", "0 or more"]),
    train("encoder", "scenes too small to draw", "--data.size", "4", "--data.root", "new", says=["size", "4", "32"]),
    train("sam2", "a configuration not there", "--model.config", "nowhere", says=["nowhere", "did you mean"]),
    train("sam2", "no prompts", "--model.prompts", "0", says=["prompts is 0", "at least 1"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*cannot be read.*it is skipped")
@pytest.mark.filterwarnings("ignore:.*is not an image.*it is skipped")
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
