"""The student's worth for matching, measured with the shipped SAM2."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.errors import ConfigError
from no_time_to_train.training.quickstart.few_shot import FewShotAp

ROOT = Path(__file__).parents[3]


class Student(pl.LightningModule):
    """Holds the shipped encoder, as if it had been distilled."""

    def __init__(self) -> None:
        super().__init__()
        encoder = build_torch_encoder("dinov3_quickstart", ROOT / "checkpoints" / "quickstart" / "encoder")
        self.model, self.entry = encoder.model, encoder.config

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        pass


@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
def test_it_logs_the_average_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the YAML's paths
    callback = FewShotAp(num_targets=3, shots=1)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, logger=False, accelerator="cpu", enable_progress_bar=False, callbacks=[callback]
    )
    # Lightning's loaders draw a seed from torch's random numbers, unless they have their own.
    images = DataLoader(TensorDataset(torch.zeros(1, 1)), generator=torch.Generator())
    state = torch.get_rng_state()
    (logged,) = trainer.validate(Student(), images, verbose=False)
    assert logged["val/few_shot_ap"] > 20  # a whole report gives it 60 and more with five references
    assert torch.equal(torch.get_rng_state(), state)


def test_what_makes_no_sense() -> None:
    with pytest.raises(ConfigError):
        FewShotAp(num_targets=0)
