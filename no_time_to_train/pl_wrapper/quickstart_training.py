"""What the trainings of the shipped models share: optimizer, schedule, and the folder that is written at the end."""

from pathlib import Path
from typing import Any

from no_time_to_train.pl_wrapper.trained_folder import EndsInFolder
from no_time_to_train.quickstart.optimizer import build_optimizer


class QuickstartTraining(EndsInFolder):
    """Training with Muon and AdamW that ends in a Hugging Face folder.

    Args:
        output: Folder that the trained model is written to.
        learning_rate: Peak of Muon's, for matrices.
        adamw_learning_rate: Peak of AdamW's, for everything else.
        warmup_steps: Steps of the linear rise to the peak.
    """

    def __init__(self, output: Path, learning_rate: float, adamw_learning_rate: float, warmup_steps: int) -> None:
        super().__init__()
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
