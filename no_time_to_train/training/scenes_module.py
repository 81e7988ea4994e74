"""What the trainings of the shipped models share: optimizer, schedule, and the folder that is written at the end."""

from pathlib import Path
from typing import Any

from no_time_to_train.errors import ConfigError
from no_time_to_train.training.exporting_module import ExportsHfFolder
from no_time_to_train.training.optimizer import build_optimizer


class QuickstartTraining(ExportsHfFolder):
    """Training with Muon and AdamW that ends in a Hugging Face folder.

    Args:
        output: Folder that the trained model is written to.
        learning_rate: Peak of Muon's, for matrices.
        adamw_learning_rate: Peak of AdamW's, for everything else.
        warmup_steps: Steps of the linear rise to the peak.
        smallest_crop: Smallest square cut out of a scene, as a share of its side.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self, output: Path, learning_rate: float, adamw_learning_rate: float, warmup_steps: int, smallest_crop: float
    ) -> None:
        super().__init__()
        for name, rate in (("learning_rate", learning_rate), ("adamw_learning_rate", adamw_learning_rate)):
            if not 0 < rate < float("inf"):
                raise ConfigError(f"model.{name} is {rate}, expected above 0", remedy="correct it in the YAML")
        if warmup_steps < 0:
            raise ConfigError(f"model.warmup_steps is {warmup_steps}", remedy="set 0 or more")
        if not 0 < smallest_crop <= 1:
            raise ConfigError(
                f"model.smallest_crop is {smallest_crop}, expected above 0, and 1 at most",
                remedy="correct it in the YAML",
            )
        self.smallest_crop = smallest_crop
        self.output = output
        self.learning_rate = learning_rate
        self.adamw_learning_rate = adamw_learning_rate
        self.warmup_steps = warmup_steps

    def configure_optimizers(self) -> Any:
        """Set up Muon, AdamW and their schedule."""
        return build_optimizer(
            self,
            learning_rate=self.learning_rate,
            adamw_learning_rate=self.adamw_learning_rate,
            warmup_steps=self.warmup_steps,
            max_steps=int(self.trainer.estimated_stepping_batches),
        )
