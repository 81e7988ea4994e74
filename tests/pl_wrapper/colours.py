"""A baseline that is right by construction: colours stand in for features, and thresholds for masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from no_time_to_train.configs.pipeline import EncoderConfigArgs, MatcherConfig
from no_time_to_train.matching import Instances, match_masks
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule
from no_time_to_train.pl_wrapper.sam2matcher_pl import Sam2MatcherLightningModel
from tests.tiny import TinyData, write_config


class ColourBaseline(Sam2MatchingBaseline_noAMG):
    """A baseline whose patch features are colours, and whose masks are where red or green prevails.

    Attributes:
        looked_at: How many images it has looked at.
    """

    looked_at = 0

    def encode_batch(self, images: Sequence[Tensor]) -> list[Tensor]:
        grids = [F.adaptive_avg_pool2d(image.float() / 255 - 0.43, (16, 16)).permute(1, 2, 0) for image in images]
        return [F.pad(colours, (0, self.encoder.embed_dim - 3)) for colours in grids]

    def predict_batch(self, images: Sequence[Tensor]) -> list[Instances]:
        self.looked_at += len(images)
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> Instances:
        resized = F.interpolate(image[None].float(), size=(96, 96), mode="bilinear")[0]
        red, green, _ = resized
        # The true masks, and one that is of no class.
        logits = torch.stack([red - green - 60, green - red - 60, 20 - resized.std(dim=0)])
        memory = self._require_memory()
        quality = torch.tensor([0.9, 0.8, 0.5])
        return match_masks(self.encode(image), logits, quality, memory, image_size=(image.shape[1], image.shape[2]))


def colour_config(folder: Path) -> MatcherConfig:
    """Return the settings of a small random baseline, whose files are put into a folder."""
    return MatcherConfig(
        "matching_baseline_noAMG",
        str(write_config(folder / "sam2")),
        EncoderConfigArgs("dinov3_small", img_size=64),
        random_init=True,
    )


def run_colours(
    config: MatcherConfig,
    data: TinyData,
    folder: Path,
    targets: Path,
    *,
    model: dict[str, Any] | None = None,
    shard: str | None = None,
    batch_size: int = 1,
    precision: Any = "32-true",
) -> tuple[dict[str, float], ColourBaseline]:
    """Run the main job in a folder, and return what it logged, and the baseline."""
    module = Sam2MatcherLightningModel(config, **(model or {}))
    # Random weights of one seed: the run's name tells weights apart.
    torch.manual_seed(0)
    module.baseline = ColourBaseline(config.sam2_cfg_file, encoder_cfg=config.encoder_cfg, random_init=True)
    trainer = Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        precision=precision,
    )
    loaded = ReferenceTargetDataModule(
        data.references, data.images, targets, data.images, shard=shard, batch_size=batch_size
    )
    return dict(trainer.test(module, datamodule=loaded, verbose=False)[0]), module.baseline
