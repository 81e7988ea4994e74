"""Numbers beyond all reason: refused before anything is allocated, started or written for them."""

from pathlib import Path

import pytest

from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import Case, Given
from tests.bad_inputs.test_predict import memory

pytestmark = [pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")]

HUGE = "9" * 21
LONG = "a number of 21 digits"
CFG = "--model.model_cfg"


def match(option: str, value: str = HUGE, *, name: str = "", most: str = "") -> Case:
    name = name or option.rpartition("model_cfg.")[2].removeprefix("--")
    shown = LONG if value == HUGE else value
    return Case(f"match: {option} {value}", lambda f: f.match(option, value), [f"{name} is {shown}, expected", most])


def fit(option: str, value: str = HUGE) -> Case:
    name = option.removeprefix("--")
    return Case(f"fit: {option} {value}", lambda f: f.fit(option, value), [f"{name} is {LONG}, expected"])


def command(name: str, *argv: str, says: list[str]) -> Case:
    def whole(f: Given) -> list[str | Path]:
        encoder = [f.shop.encoder] if name == "export" else []
        return [name, *encoder, *argv]

    return Case(f"{name} {' '.join(argv)}", whole, says)


CASES = [
    match(f"{CFG}.encoder_cfg.img_size"),
    match(f"{CFG}.encoder_cfg.img_size", "1600000", most="1 to 32768"),
    match(f"{CFG}.sam2_infer_cfgs.points_per_side"),
    match(f"{CFG}.sam2_infer_cfgs.points_per_side", "100000", most="n times n prompts"),
    match(f"{CFG}.sam2_infer_cfgs.testing_point_bs"),
    match(f"{CFG}.sam2_infer_cfgs.num_out_instance"),
    match(f"{CFG}.sam2_infer_cfgs.max_prompts"),
    match(f"{CFG}.memory_bank_cfg.debias.components"),
    match("--data.batch_size"),
    match("--data.batch_size", "1000000", most="is in memory together"),
    match("--data.num_workers", "100000", most="every worker is a process"),
    match("--data.max_targets"),
    match("--model.overlays"),
    match("--trainer.devices", "100000", most="every device has a process"),
    match("--trainer.devices"),
    match("--trainer.num_nodes"),
    match("--trainer.limit_test_batches"),
    fit("--data.batch_size"),
    fit("--data.val_batch_size"),
    fit("--data.num_workers"),
    fit("--data.num_scenes"),
    fit("--data.num_val"),
    fit("--data.views.size"),
    fit("--data.seed"),
    fit("--model.student.seed"),
    fit("--model.optimizer.warmup_steps"),
    fit("--trainer.max_steps"),
    fit("--trainer.accumulate_grad_batches"),
    Case(
        "predict: settings with a grid beyond all reason",
        lambda f: f.predict("--config", f.settings(sam2_infer_cfgs__points_per_side=int(HUGE))),
        [f"points_per_side is {LONG}", "lower it"],
    ),
    command("write-shapes", "--root", "new", "--shots", "1000000000", says=["shots is 1000000000, expected"]),
    command("write-shapes", "--root", "new", "--num-targets", HUGE, says=[f"num_targets is {LONG}"]),
    command("write-shapes", "--root", "new", "--size", HUGE, says=[f"size {LONG}", "32 to 8192 pixels"]),
    command("quickstart-report", "--num-images", HUGE, says=[f"the number of images is {LONG}"]),
    command("compare", "--encoder", "dinov3_quickstart_tiny", "--batch-size", HUGE, says=[f"--batch-size is {LONG}"]),
    command("compare", "--encoder", "dinov3_quickstart_tiny", "--random", HUGE, says=[f"--random is {LONG}"]),
    command("compare", "--encoder", "dinov3_quickstart_tiny", "--image-size", HUGE, says=["is larger than any image"]),
    command("export", "--batch-size", HUGE, "--output", "new", says=[f"--batch-size is {LONG}"]),
    command("export", "--image-size", HUGE, "--output", "new", says=["is larger than any image"]),
    command("export", "--image-size", "160000", "--output", "new", says=["160000 by 160000 pixels", "at most 32768"]),
    command("export", "--opset", HUGE, "--output", "new", says=["opset"]),
    # The trainer's other values that no run can be made with.
    Case("match: precision of 64 bits", lambda f: f.match("--trainer.precision", "64-true"), ["is 64-true", "32-true"]),
    Case("match: half precision", lambda f: f.match("--trainer.precision", "16-true"), ["is 16-true", "bf16-mixed"]),
    Case("match: no checkpoint", lambda f: f.match("--ckpt_path", ""), ["ckpt_path is empty", "leave it out"]),
    Case("fit: no checkpoint", lambda f: f.fit("--ckpt_path", " "), ["ckpt_path is empty", "leave it out"]),
    Case(
        "match: memory of another width under the same fingerprint",
        lambda f: f.match("--model.test_mode", "test", "--ckpt_path", memory(f, width=64)),
        ["holds features of width 64", "of width 128", "fill it anew"],
    ),
    Case(
        "predict: memory of another width under the same fingerprint",
        lambda f: f.predict("--memory", memory(f, width=64)),
        ["holds features of width 64", "of width 128", "fill it anew"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
