"""The matching baselines' commands, killed: fill_memory, the full run, test, predict."""

import json
import random
import shutil
import signal
from pathlib import Path

import yaml
from PIL import Image

from no_time_to_train.matching import MemoryBank
from tests.kills.driver import Command, Forker
from tests.kills.scenario import Files, Scenario, assert_same, generation, one_generation
from tests.tiny import small_model_arguments, write_config, write_dataset

ROOT = Path(__file__).parents[2]
BASE = ROOT / "pl_configs" / "matching_baseline_dinov3_test.yaml"
_POINTS = "--model.model_cfg.sam2_infer_cfgs.points_per_side"


class LightningScenario(Scenario):
    """`run_lightening.py` on small stand-ins, over a run with a coarser grid of points and another seed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sam2 = write_config(root / "sam2")
        self.data = write_dataset(root / "data", targets=3)

    def arguments(self, *more: str) -> Command:
        fixed = ["--config", str(BASE), *small_model_arguments(self.sam2), *self.data.arguments]
        fixed += ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "null"]
        return Command("lightning_cli", (*fixed, "--trainer.default_root_dir", str(self.run), *more))


class FillMemoryScenario(LightningScenario):
    """`--model.test_mode fill_memory`."""

    name = "fill_memory"

    def command(self) -> Command:
        return self.arguments("--model.test_mode", "fill_memory", "--out_path", str(self.run / "memory.safetensors"))

    def older(self) -> Command:
        command = self.command()
        return Command(command.program, (*command.args, "--seed_everything", "34"))

    def look(self, files: Files) -> None:
        assert set(files) <= set(self.new)
        for name in files:
            generation(name, files, old=self.old, new=self.new)
        assert MemoryBank.load(self.run / "memory.safetensors").counts() == [2, 2]


class FullRunScenario(LightningScenario):
    """The whole way: references, targets, results, overlays, average precision."""

    name = "test (full)"

    def command(self) -> Command:
        return self.arguments(_POINTS, "4")

    def older(self) -> Command:
        return self.arguments(_POINTS, "3", "--seed_everything", "34")

    def look(self, files: Files) -> None:
        for name in files:
            generation(name, files, old=self.old, new=self.new)
        json.loads(files["results.json"])
        yaml.safe_load(files["config.yaml"])
        assert MemoryBank.load(self.run / "memory.safetensors").counts() == [2, 2]
        for path in (self.run / "overlays").glob("[!.]*.png"):
            with Image.open(path) as picture:
                picture.load()
        if "metrics.json" in files:
            # Written last: all else is of the same run.
            one_generation(sorted(files), files, old=self.old, new=self.new)


class TestModeScenario(LightningScenario):
    """`--model.test_mode test`, with a memory that was filled before."""

    __test__ = False
    name = "test"

    def command(self) -> Command:
        return self._test(_POINTS, "4")

    def older(self) -> Command:
        return self._test(_POINTS, "3")

    def _test(self, *more: str) -> Command:
        return self.arguments("--model.test_mode", "test", "--ckpt_path", str(self.root / "memory.safetensors"), *more)

    def learn(self, forker: Forker) -> None:
        out = ("--out_path", str(self.root / "memory.safetensors"))
        forker.finish(self.arguments("--model.test_mode", "fill_memory", *out), self.root)
        shutil.rmtree(self.run)
        super().learn(forker)

    def look(self, files: Files) -> None:
        for name in files:
            generation(name, files, old=self.old, new=self.new)
        json.loads(files["results.json"])
        if "metrics.json" in files:
            # Written last: all else is of the same run.
            one_generation(sorted(files), files, old=self.old, new=self.new)


class PredictScenario(Scenario):
    """`ntt predict`, over a run with a coarser grid of points; a kill may be followed by either of the two."""

    name = "predict"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.data = write_dataset(root / "data", targets=3)
        document = json.loads(self.data.targets.read_text())
        self.images = [str(self.data.images / image["file_name"]) for image in document["images"]]
        for name, points in (("old", 3), ("new", 4)):
            self._write_settings(root / f"{name}.yaml", points)
        self.goes_on_with = "new"

    def _write_settings(self, path: Path, points: int) -> None:
        model = {
            "name": "matching_baseline_noAMG",
            "sam2_cfg_file": str(write_config(self.root / "sam2")),
            "encoder_cfg": {"name": "dinov3_small", "img_size": 64},
            "sam2_infer_cfgs": {"points_per_side": points, "iou_thr": 0.0},
            "random_init": True,
        }
        class_path = "no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel"
        document = {"model": {"class_path": class_path, "init_args": {"model_cfg": model}}}
        path.write_text(yaml.safe_dump(document))

    def _command(self, settings: str) -> Command:
        references = ["--references", str(self.data.references), "--reference-images", str(self.data.images)]
        options = ["--config", str(self.root / f"{settings}.yaml"), *references, "--min-score", "0", "--format", "coco"]
        return Command("cli", ("predict", *options, "--images", *self.images, "--output", str(self.run)))

    def command(self) -> Command:
        return self._command("new")

    def older(self) -> Command:
        return self._command("old")

    def again(self) -> Command:
        return self._command(self.goes_on_with)

    def kill(self, forker: Forker, rng: random.Random, signum: int = signal.SIGKILL) -> bool:
        self.goes_on_with = rng.choice(("old", "new"))
        return super().kill(forker, rng, signum)

    def look(self, files: Files) -> None:
        of = {name: generation(name, files, old=self.old, new=self.new) for name in files}
        for path in map(Path, self.images):
            entry, overlay = f"instances/{path.name}.json", f"overlays/{path.name}.png"
            if entry in files:
                json.loads(files[entry])
                assert of[entry] & of[overlay], f"{entry} and {overlay} are of two runs"
        if "predictions.json" in files:
            json.loads(files["predictions.json"])
            one_generation(sorted(files), files, old=self.old, new=self.new)

    def check_end(self, files: Files) -> None:
        assert_same(files, self.new if self.goes_on_with == "new" else self.old)
