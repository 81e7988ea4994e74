"""Every command and every mode of the main job, once, on tiny data, in a home folder of its own."""

import io
import json
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main as run_lightening
from tests.golden_files import golden
from tests.safety.watching import closed_network
from tests.tiny import config_settings, write_config, write_dataset

ROOT = Path(__file__).parents[2]
ENCODER = ROOT / "checkpoints" / "quickstart" / "encoder"
HOME = "home-of-somebody"
TOKEN = "hf_aTokenThatNobodyMaySee"
# What is read; the rest of the folder is what the commands wrote.
INPUTS = ("data", "sam2", "tiny.pth", "teacher", "matcher.yaml", "distill.yaml")


@dataclass
class Ran:
    """What came of a command.

    Attributes:
        status: The exit status.
        attempts: To reach the network.
        printed: On stdout, on stderr and by loggers.
        seconds: Of the processor.
    """

    status: int
    attempts: list[str]
    printed: str
    seconds: float


@dataclass
class Workplace:
    """A folder with inputs, in which commands run with paths as a user types them: relative ones."""

    folder: Path
    ran: dict[str, Ran] = field(default_factory=dict)

    def run(self, name: str, main: Callable[[list[str]], int], *arguments: str) -> None:
        """Run a command with the network closed."""
        printed, begin = io.StringIO(), time.process_time()
        handler = logging.StreamHandler(printed)
        logging.getLogger().addHandler(handler)
        try:
            with closed_network() as attempts, redirect_stdout(printed), redirect_stderr(printed):
                status = main(list(arguments))
        finally:
            logging.getLogger().removeHandler(handler)
        self.ran[name] = Ran(status, attempts, printed.getvalue(), time.process_time() - begin)


def prepare(folder: Path) -> Workplace:
    """Write the inputs."""
    folder.mkdir(parents=True)
    write_dataset(folder / "data", shots=1, targets=2)
    write_config(folder / "sam2", config_settings())
    shutil.copyfile(golden("vit_mlp_released"), folder / "tiny.pth")
    shutil.copytree(ENCODER, folder / "teacher")
    (folder / "matcher.yaml").write_text(yaml.safe_dump(_matcher()))
    (folder / "plain.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"model_cfg": {}}}}))
    (folder / "distill.yaml").write_text(yaml.safe_dump(_distill()))
    return Workplace(folder)


def run_all(place: Workplace) -> None:
    """Run every command that is neither `fetch` nor `doctor`, and every mode of the main job; the folder is the cwd."""
    place.run("info", ntt, "info")
    place.run("completion", ntt, "completion", "bash")
    place.run("inspect", ntt, "inspect", "tiny.pth")
    for to, destination in (("hf", "hf"), ("meta", "meta.pth"), ("equinox", "tiny.eqx")):
        place.run(f"convert to {to}", ntt, "convert", "tiny.pth", destination, "--to", to)
    place.run("validate", ntt, "validate", "hf")
    place.run("export", ntt, "export", "hf", "--output", "exported", "--opset", "17", "--copy-weights")
    place.run("export beside the weights", ntt, "export", "hf", "--no-verify")
    noise = ("--random", "1", "--image-size", "64x64", "--report", "report")
    place.run("compare", ntt, "compare", "--weights", "tiny.pth", "--onnx", "exported", *noise)
    sampled = ("--shots", "1", "--output", "sampled.json")
    place.run("sample-references", ntt, "sample-references", "--annotations", "data/references.json", *sampled)
    shapes = ("--size", "64", "--shots", "1", "--num-targets", "1")
    place.run("write-shapes", ntt, "write-shapes", "--root", "shapes", *shapes)
    place.run("demo", ntt, "demo", "--num-targets", "1", "--output", "demo")
    networks = ("--encoder", "hf", "--sam2", str(ENCODER.parent / "sam2"), "--no-verify")
    place.run("export-pipeline", ntt, "export-pipeline", "--config", "plain.yaml", "--output", "bundle", *networks)
    report = ("--settings", "matcher.yaml", "--num-images", "2")
    place.run("quickstart-report", ntt, "quickstart-report", *report)
    references = ("--references", "data/references.json", "--reference-images", "data/images")
    found = ("--images", "data/images", "--output", "found", "--min-score", "0", "--report")
    place.run("predict", ntt, "predict", "--config", "matcher.yaml", *references, *found)
    own = ("data/references.json", "--images", "data/images", "--bundle", "quickstart")
    # 1 says that there are warnings.
    place.run("references check", lambda given: ntt(given) // 2, "references", "check", *own)
    place.run("references convert", ntt, "references", "convert", *own, "--output", "own.json")
    _run_matcher(place)
    place.run("memory show", ntt, "memory", "show", "fill_memory.safetensors")
    place.run("fit", run_lightening, "fit", "--config", "distill.yaml")
    checkpoint = next((place.folder / "distilled").rglob("*.ckpt")).relative_to(place.folder)
    place.run("convert a checkpoint", ntt, "convert", str(checkpoint), "student", "--to", "hf")


def _run_matcher(place: Workplace) -> None:
    data = ["--data", "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"]
    data += ["--data.references", "data/references.json", "--data.reference_images", "data/images"]
    data += ["--data.targets", "data/targets.json", "--data.target_images", "data/images"]
    data += ["--data.negative_references", "data/negatives.json"]
    matcher = ["--config", "matcher.yaml", *data]
    for command, name in (("test", "test"), ("validate", "validate the targets"), ("predict", "predict the targets")):
        place.run(name, run_lightening, command, *matcher, "--trainer.default_root_dir", f"runs/{command}")
    before = ""
    for mode in ("fill_memory", "fill_memory_neg", "postprocess_memory", "test", "vis_memory"):
        arguments = ["--model.test_mode", mode, "--trainer.default_root_dir", f"runs/{mode}"]
        if before and mode != "vis_memory":
            arguments += ["--ckpt_path", before]
        if "memory" in mode and mode != "vis_memory":
            before = f"{mode}.safetensors"
            arguments += ["--out_path", before]
        place.run(f"test_mode {mode}", run_lightening, *matcher, *arguments)


def _matcher() -> dict[str, object]:
    model = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": "sam2",
        "encoder_cfg": {"name": "dinov3_quickstart", "img_size": 64},
        "encoder_ckpt_path": "teacher",
        "sam2_infer_cfgs": {"points_per_side": 3, "iou_thr": 0.0},
        "feature_cache": {"folder": "cache"},
        "random_init": True,
    }
    class_path = "no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel"
    trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": True, "enable_model_summary": True}
    init = {"model_cfg": model, "overlays": -1}
    return {"seed_everything": 33, "model": {"class_path": class_path, "init_args": init}, "trainer": trainer}


def _distill() -> dict[str, object]:
    """Return the shipped distillation at its smallest, with its loggers and callbacks.

    Only parity is left out: it compiles for many seconds what `compare` has done.
    """
    shipped = (ROOT / "pl_configs" / "distill_quickstart.yaml").read_text()
    config: dict[str, dict[str, object]] = yaml.safe_load(shipped.replace("runs/distill_quickstart", "distilled"))
    document = json.loads(json.dumps(config))
    document["model"]["init_args"]["teacher"]["ckpt_path"] = "teacher"
    document["data"]["init_args"] |= {"num_scenes": 12, "num_val": 4, "batch_size": 4}
    document["data"]["init_args"]["views"]["size"] = 64
    document["trainer"] |= {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1, "precision": "32-true"}
    document["trainer"] |= {"num_sanity_val_steps": 0}
    callbacks = document["trainer"]["callbacks"]
    document["trainer"]["callbacks"] = [part for part in callbacks if "parity" not in part["class_path"]]
    for part in callbacks:
        if part["class_path"].endswith("ModelCheckpoint"):
            part["init_args"]["every_n_train_steps"] = 2
        if part["class_path"].endswith("FeaturePictures"):
            part["init_args"]["every_n_steps"] = 2
    result: dict[str, object] = document
    return result
