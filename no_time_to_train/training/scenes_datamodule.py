"""Synthetic scenes for training, batch by batch, for Lightning."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int16, UInt8
from lightning.pytorch import LightningDataModule
from torch import Tensor

from no_time_to_train.configs.limits import MOST_IN_BATCH, MOST_SCENES, TOGETHER, check_number
from no_time_to_train.data.synthetic.training_scenes import TrainingScenes, training_scenes
from no_time_to_train.errors import ConfigError
from no_time_to_train.pl_wrapper.distributed import rank_and_world


class SceneBatch(NamedTuple):
    """A batch of scenes.

    Attributes:
        images: sRGB, 0-255.
        instances: Which object is seen at a pixel: 0 for the background, k + 1 for the k-th object.
        kinds: Index into `TRAINING_KINDS` of each object, -1 where a scene has fewer.
    """

    images: UInt8[Tensor, "B S S 3"]
    instances: UInt8[Tensor, "B S S"]
    kinds: Int16[Tensor, "B 6"]


class SceneBatches:
    """Batches of a range of the scenes; an iteration that was stopped can be taken up where it stood.

    Args:
        scenes: All scenes.
        rows: Which of them.
        batch_size: Scenes a batch.
        seed: Of the order, which is another one in each epoch; with None the scenes come in their own order, and a
            smaller last batch is kept.
    """

    def __init__(self, scenes: TrainingScenes, rows: range, batch_size: int, *, seed: int | None) -> None:
        self.scenes, self.rows, self.batch_size, self.seed = scenes, rows, batch_size, seed
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, each process having its own."""
        per_process = len(self.rows) // rank_and_world()[1]
        return per_process // self.batch_size if self.seed is not None else -(-per_process // self.batch_size)

    def __iter__(self) -> Iterator[SceneBatch]:
        """Go through the rest of the epoch, or through the next one if it is at its end."""
        if self.seed is None:
            self.position = 0
        elif self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = np.arange(len(self.rows))
        if self.seed is not None:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        rank, world = rank_and_world()
        mine = order[rank::world]
        arrays = (self.scenes.images, self.scenes.instances, self.scenes.kinds)
        while self.position < len(self):
            start = self.position * self.batch_size
            self.position += 1
            # In the order of the file, which reads faster where it is not in memory yet.
            rows = np.sort(mine[start : start + self.batch_size]) + self.rows.start
            yield SceneBatch(*(torch.from_numpy(array[rows]) for array in arrays))

    def state_dict(self) -> dict[str, int]:
        """Return where the iteration stands; Lightning keeps it in its checkpoints."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]


class TrainingScenesDataModule(LightningDataModule):
    """Scenes of the base shapes, textures and palettes, drawn when they are first needed.

    Args:
        root: Folder of the scenes.
        seed: Of the scenes and of their order.
        size: Side of the square images in pixels.
        num_scenes: Scenes in all.
        num_val: How many of them, the last ones, are kept for validation.
        batch_size: Scenes a step.

    Raises:
        ConfigError: Fewer scenes for training than a batch holds.
    """

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 0,
        size: int = 256,
        num_scenes: int = 24000,
        num_val: int = 256,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        check_number("data.batch_size", batch_size, 1, MOST_IN_BATCH, TOGETHER)
        check_number("data.num_scenes", num_scenes, 1, MOST_SCENES, "every scene is written to the disk")
        if batch_size < 1 or num_val < 1 or num_scenes - num_val < batch_size:
            raise ConfigError(
                f"{num_scenes} scenes with {num_val} for validation leave no batch of {batch_size}",
                remedy="raise data.num_scenes, or lower data.num_val or data.batch_size",
            )
        self.root = root
        self.seed = seed
        self.size = size
        self.num_scenes = num_scenes
        self.num_val = num_val
        self.batch_size = batch_size

    def prepare_data(self) -> None:
        """Draw the scenes, on one process; nothing is done where they are drawn already."""
        self._scenes()

    def train_dataloader(self) -> SceneBatches:
        """Return the training scenes in random order, whole batches only."""
        rows = range(self.num_scenes - self.num_val)
        return SceneBatches(self._scenes(), rows, self.batch_size, seed=self.seed)

    def val_dataloader(self) -> SceneBatches:
        """Return the validation scenes in order."""
        rows = range(self.num_scenes - self.num_val, self.num_scenes)
        return SceneBatches(self._scenes(), rows, self.batch_size, seed=None)

    def _scenes(self) -> TrainingScenes:
        return training_scenes(self.root, seed=self.seed, size=self.size, count=self.num_scenes)
