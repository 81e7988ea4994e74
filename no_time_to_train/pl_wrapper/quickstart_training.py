"""What the trainings of the shipped models share: optimizer, schedule, and the folder that is written at the end."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from no_time_to_train.quickstart.optimizer import build_optimizer


class QuickstartTraining(LightningModule):
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

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained model without what only training needs."""

    def configure_optimizers(self) -> Any:
        """Set up Muon, AdamW and their schedule."""
        return build_optimizer(
            self,
            learning_rate=self.learning_rate,
            adamw_learning_rate=self.adamw_learning_rate,
            warmup_steps=self.warmup_steps,
            max_steps=int(self.trainer.estimated_stepping_batches),
        )

    def on_train_end(self) -> None:
        """Write the trained model as a folder."""
        if self.trainer.is_global_zero:
            self.save(self.output)
