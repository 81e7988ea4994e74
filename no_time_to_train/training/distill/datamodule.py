"""Images without annotations for Lightning: from folders, COCO JSON, or the embedded scenes."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from no_time_to_train.configs.limits import MOST_IN_BATCH, MOST_SCENES, MOST_WORKERS, TOGETHER, check_number
from no_time_to_train.data.synthetic.training_scenes import training_scenes
from no_time_to_train.errors import ConfigError
from no_time_to_train.training.distill.image_sources import (
    ImageSource,
    SceneImages,
    SubsetImages,
    images_in_folders,
    images_of_coco,
)
from no_time_to_train.training.distill.views import ViewBatches, ViewConfig, Views


class ViewsDataModule(LightningDataModule):
    """Training views of images, and some images held out for validation.

    One of `folders`, `coco` and `scenes` says where the images are.

    Args:
        folders: Folders of images, with all folders in them.
        coco: A COCO JSON, whose annotations are not looked at.
        coco_images: The folder of its images.
        scenes: A folder for the embedded synthetic scenes, which are drawn when they are first needed.
        num_scenes: Scenes in all.
        val_folders: Folders of images for validation; without them some of the others are held out.
        val_labelled: The first folder below a `val_folders` entry names an image's class, for k-NN accuracy.
        num_val: How many are held out, chosen by the seed.
        views: How training images are augmented, and the size of all.
        batch_size: Images a step, of each process.
        val_batch_size: Images at a time in validation; as many as in training if None.
        num_workers: Processes that read ahead.
        seed: Of the order, the augmentation, the images held out and the scenes.

    Raises:
        ConfigError: No source or several are named, or a number makes no sense.
    """

    def __init__(
        self,
        *,
        folders: list[Path] | None = None,
        coco: Path | None = None,
        coco_images: Path | None = None,
        scenes: Path | None = None,
        num_scenes: int = 4096,
        val_folders: list[Path] | None = None,
        val_labelled: bool = False,
        num_val: int = 256,
        views: ViewConfig | Mapping[str, Any] | None = None,
        batch_size: int = 16,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        named = [name for name, value in (("folders", folders), ("coco", coco), ("scenes", scenes)) if value]
        if len(named) != 1 or (coco is None) != (coco_images is None):
            raise ConfigError(
                f"the images are named by {named or 'nothing'}",
                remedy="set one of data.folders, data.scenes, or data.coco with data.coco_images",
            )
        for name, value, most, why in (
            ("batch_size", batch_size, MOST_IN_BATCH, TOGETHER),
            ("val_batch_size", val_batch_size, MOST_IN_BATCH, TOGETHER),
            ("num_val", num_val, 10**12, "they are held out of training"),
            ("num_scenes", num_scenes, MOST_SCENES, "every scene is written to the disk"),
        ):
            check_number(f"data.{name}", value, 1, most, why)
        check_number("data.num_workers", num_workers, 0, MOST_WORKERS, "every worker is a process")
        if seed < 0:
            raise ConfigError(f"data.seed is {seed}", remedy="set 0 or more")
        if val_labelled and not val_folders:
            raise ConfigError("data.val_labelled is set without data.val_folders", remedy="name the labelled folders")
        self.folders, self.coco, self.coco_images, self.scenes = folders, coco, coco_images, scenes
        self.num_scenes, self.num_val = num_scenes, num_val
        self.val_folders, self.val_labelled = val_folders, val_labelled
        self.views = views if isinstance(views, ViewConfig) else _view_config(views or {})
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.num_workers, self.seed = num_workers, seed

    def prepare_data(self) -> None:
        """Draw the scenes, on one process; nothing is done where they are drawn already."""
        if self.scenes is not None:
            self._source()

    def train_dataloader(self) -> ViewBatches:
        """Return the training views in random order, whole batches only.

        Raises:
            DataNotFoundError: There are no images.
            ConfigError: There are fewer than a batch.
        """
        images, _ = self._split()
        batches = ViewBatches(
            Views(images, self.views, seed=self.seed), self.batch_size, seed=self.seed, num_workers=self.num_workers
        )
        if not len(batches):
            raise ConfigError(
                f"{len(images)} images for training make no batch of {self.batch_size} for each process",
                remedy="lower data.batch_size or data.num_val, or name more images",
            )
        return batches

    def val_dataloader(self) -> ViewBatches:
        """Return the images for validation, in order, as they are."""
        _, held_out = self._split()
        views = Views(held_out, self.views, seed=None)
        return ViewBatches(views, self.val_batch_size, seed=None, num_workers=self.num_workers)

    def _source(self) -> ImageSource:
        if self.folders:
            return images_in_folders(self.folders)
        if self.coco is not None and self.coco_images is not None:
            return images_of_coco(self.coco, self.coco_images)
        assert self.scenes is not None
        return SceneImages(training_scenes(self.scenes, seed=self.seed, size=self.views.size, count=self.num_scenes))

    def _split(self) -> tuple[ImageSource, ImageSource]:
        source = self._source()
        if self.val_folders:
            return source, images_in_folders(self.val_folders, labelled=self.val_labelled)
        if self.num_val >= len(source):
            raise ConfigError(
                f"{self.num_val} of {len(source)} images were to be held out", remedy="lower data.num_val"
            )
        order = np.random.default_rng([self.seed, 1]).permutation(len(source))
        held_out, rest = np.sort(order[: self.num_val]), np.sort(order[self.num_val :])
        return SubsetImages(source, rest.tolist()), SubsetImages(source, held_out.tolist())


def _view_config(settings: Mapping[str, Any]) -> ViewConfig:
    known = {entry.name for entry in fields(ViewConfig)}
    if settings.keys() - known:
        raise ConfigError(
            f"data.views has no setting {', '.join(sorted(settings.keys() - known))}",
            remedy=f"it has {', '.join(sorted(known))}",
        )
    return ViewConfig(**settings)
