"""Trainings, killed: the distillation and the shipped encoder's, with checkpoints to go on from."""

import torch
from safetensors.torch import load, load_file

from tests.kills.driver import Command
from tests.kills.scenario import Files, Scenario
from tests.training.distill.test_module import settings
from tests.training.quickstart.test_modules import arguments


class TrainingScenario(Scenario):
    """A training that keeps checkpoints and ends in a folder of weights.

    Attributes:
        output: That folder's name.
        steps: Of the whole training.
    """

    output: str
    steps: int
    # Whether a training that goes on does to the last bit what one does that was never stopped.
    exact: bool

    def again(self) -> Command:
        command = self.command()
        return Command(command.program, (*command.args, "--ckpt_path", "last"))

    def look(self, files: Files) -> None:
        for name in files:
            if name.endswith(".ckpt"):
                # Its pickle holds paths and numbers of Lightning's, not tensors alone; it is this test's own.
                state = torch.load(self.run / name, weights_only=False)
                assert state["state_dict"]
                assert 0 < state["global_step"] <= self.steps
                assert "step=" not in name or f"step={state['global_step']}" in name
        weights = f"{self.output}/model.safetensors"
        if weights in files:
            assert load_file(self.run / weights).keys() == load(self.new[weights]).keys()
            for name in ("config.json", "preprocessor_config.json"):
                assert files[f"{self.output}/{name}"] == self.new[f"{self.output}/{name}"]

    def is_given_up(self, name: str) -> bool:
        """Loggers begin a folder for each run."""
        return "/version_" in f"/{name}"

    def check_end(self, files: Files) -> None:
        self.look(files)
        last = torch.load(self.run / "checkpoints" / "last.ckpt", weights_only=False)
        assert last["global_step"] == self.steps
        assert {name for name in files if name.startswith(f"{self.output}/")} == {
            name for name in self.new if name.startswith(f"{self.output}/")
        }
        if self.exact:
            weights = f"{self.output}/model.safetensors"
            assert files[weights] == self.new[weights]


class DistillScenario(TrainingScenario):
    """`run_lightening.py fit` of a distillation, with averages."""

    name, output, steps, exact = "fit (distillation)", "student", 10, True

    def command(self) -> Command:
        # Written each time: the settings stand in the folder that the training fills.
        path = settings(self.root / "settings", self.run / "scenes", keep=("ModelCheckpoint", "EMAWeightAveraging"))
        text = path.read_text().replace(str(self.root / "settings"), str(self.run))
        path.write_text(text)
        steps = ("--trainer.max_steps", str(self.steps), "--trainer.val_check_interval", "5")
        return Command("lightning_cli", ("fit", "--config", str(path), *steps))


class QuickstartScenario(TrainingScenario):
    """`run_lightening.py fit` of the shipped encoder's training."""

    name, output, steps, exact = "fit (quickstart)", "out", 8, False

    def command(self) -> Command:
        keep = (
            "--trainer.callbacks=lightning.pytorch.callbacks.ModelCheckpoint",
            f"--trainer.callbacks.dirpath={self.run / 'checkpoints'}",
            "--trainer.callbacks.every_n_train_steps=2",
            "--trainer.callbacks.save_last=true",
        )
        steps = ("--trainer.max_steps", str(self.steps), "--trainer.val_check_interval", "4")
        return Command("lightning_cli", tuple(arguments("encoder", self.run / "scenes", self.run, *keep, *steps)))
