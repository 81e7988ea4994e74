"""What a student is worth for matching: mask AP on the embedded few-shot set, after validations."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from no_time_to_train.configs.limits import MOST_IMAGES, check_number
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.encoders.live_weights import find_live_encoder, save_encoder_snapshot
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError
from no_time_to_train.training.quickstart.report import CONFIG, TEST_SEED, build_baseline, fill_memories, measure


class FewShotAp(Callback):
    """Logs `val/few_shot_ap`, in points: the student in the matching baseline, with the SAM2 of a YAML.

    Args:
        settings: The YAML whose SAM2, thresholds and image size are taken.
        every_n_validations: After every n-th.
        num_targets: Images that are matched.
        shots: References a class.
        seed: Of references and targets.

    Raises:
        ConfigError: A number is below 1.
    """

    def __init__(
        self,
        settings: Path = CONFIG,
        every_n_validations: int = 1,
        num_targets: int = 20,
        shots: int = 5,
        seed: int = TEST_SEED,
    ) -> None:
        super().__init__()
        check_number("FewShotAp.every_n_validations", every_n_validations, 1, 10**12, "it would never measure")
        check_number("FewShotAp.num_targets", num_targets, 1, MOST_IMAGES, "every target is matched")
        check_number("FewShotAp.shots", shots, 1, MOST_IMAGES, "every shot is an image")
        self.settings, self.every_n_validations = settings, every_n_validations
        self.num_targets, self.shots, self.seed = num_targets, shots, seed
        self._validations = 0

    def state_dict(self) -> dict[str, Any]:
        """Remember how many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = int(state_dict["validations"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what is wrong with the YAML before hours of training, not after."""
        if trainer.is_global_zero:
            build_baseline(self.settings)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Measure behind the last batch, on the first process: averaged weights are swapped back after it."""
        if trainer.sanity_checking or batch_idx + 1 < sum(trainer.num_val_batches):
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0 and trainer.is_global_zero:
            with torch.random.fork_rng(devices=[]):
                ap = self._measure(pl_module)
            pl_module.log("val/few_shot_ap", ap, on_step=False, on_epoch=True, batch_size=1, rank_zero_only=True)

    def _measure(self, pl_module: LightningModule) -> float:
        live = find_live_encoder(pl_module)
        if live is None:
            raise ConfigError(
                f"{type(pl_module).__name__} holds no DINOv3 model that could be matched with",
                remedy="leave FewShotAp out of its callbacks",
            )
        baseline = build_baseline(self.settings)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save_encoder_snapshot(live, folder / "student")
            img_size = baseline.encoder.img_size
            baseline.encoder = build_encoder_from_checkpoint(folder / "student", img_size=img_size)
            memories = fill_memories(baseline, folder / "references", seed=self.seed, shots=(self.shots,))
            targets = write_shapes(
                folder / "targets_few-shot", seed=self.seed, shots=1, num_targets=self.num_targets, distractors=True
            )
            with torch.inference_mode():
                figures = measure(baseline, [memories], targets, ap_shots=(self.shots,))
        return figures.ap[self.shots]
