"""Trainings that end in a folder of weights."""

from abc import abstractmethod
from pathlib import Path

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging

from no_time_to_train.files import check_writable


class EndsInFolder(LightningModule):
    """A training that writes a folder at its end, also where it goes on from a checkpoint of its last step.

    Attributes:
        output: The folder; None writes none.
    """

    output: Path | None = None
    _ended = False

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained model without what only training needs."""

    def setup(self, stage: str) -> None:
        """Refuse an output that could not be written at the end.

        Raises:
            OutputError: It is one.
        """
        if stage == "fit" and self.output is not None:
            check_writable(self.output)

    def on_train_end(self) -> None:
        """Write the trained model as a folder."""
        self._ended = True
        if self.output is not None and self.trainer.is_global_zero:
            self.save(self.output)

    def on_fit_end(self) -> None:
        """Write it where whoever was killed between the last checkpoint and the end had not.

        Lightning takes a training that has done all its steps for one that never ends.
        """
        if self._ended or not self.trainer.ckpt_path:
            return
        for part in self.trainer.callbacks:  # type: ignore[attr-defined] # Lightning's Trainer does not declare it
            if isinstance(part, WeightAveraging):
                # The averages take the weights' place, as they do at the end of a training.
                part.on_train_end(self.trainer, self)
        self.on_train_end()
