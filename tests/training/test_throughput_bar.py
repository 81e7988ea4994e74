"""The bar says how fast a training is and how long it takes."""

import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from no_time_to_train.training.throughput_bar import ThroughputBar


class Slow(TensorDataset):
    """Points that take their time."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        time.sleep(0.025)
        return (self.tensors[0][index],)


class Line(pl.LightningModule):
    """A line through points."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.line(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_images_a_second_and_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ThroughputBar(refresh_rate=1)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_steps=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
    )
    trainer.fit(Line(), DataLoader(Slow(torch.zeros(12, 1)), batch_size=2))
    told = capsys.readouterr()
    assert "images/s=" in told.out + told.err
    assert "left=0:00" in told.out + told.err
    metrics = bar.get_metrics(trainer, Line())
    assert float(metrics["images/s"]) <= 2 / 0.05 * 1.05  # reading them takes so long
    assert metrics["left"] == "0:00"
