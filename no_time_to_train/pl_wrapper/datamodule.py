"""References and targets for Lightning."""

import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from no_time_to_train.batch.image_paths import share_of
from no_time_to_train.configs.limits import MOST_IN_BATCH, MOST_WORKERS, TOGETHER, check_number
from no_time_to_train.configs.splits import resolve_split
from no_time_to_train.data.coco import CocoDataset, ImageRecord, load_coco
from no_time_to_train.data.datasets import ReferenceDataset, ReferenceItem, TargetDataset, TargetItem
from no_time_to_train.data.image_files import list_images
from no_time_to_train.data.images import image_size
from no_time_to_train.data.references import Reference, ReferenceSet, load_negative_references, load_references
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.pl_wrapper.distributed import NonRepeatingSampler
from no_time_to_train.results.truth import check_masks, doubts_of

log = logging.getLogger(__name__)


class ReferenceTargetDataModule(LightningDataModule):
    """References and targets in COCO JSON, or targets in a plain folder of images.

    Args:
        references: COCO JSON all of whose annotations are references, or a pickle of the original project.
        reference_images: Folder of their images.
        targets: COCO JSON of the targets; without it, every image in `target_images` is a target and there is no AP.
        target_images: Folder of the target images.
        split: Classes by a published split's name, such as `coco_fewshot_novel20`.
        class_names: Classes by name; all of the references' if neither this nor `split` is given.
        reference_annotations: For a pickle, the COCO JSON that its ids are of.
        negative_references: COCO JSON of references that show what classes are not.
        negative_images: Folder of their images; `reference_images` if None.
        max_targets: Take the first so many targets only; for a quick look.
        num_workers: Processes that read images ahead, while others are computed.
        batch_size: Targets that go through the networks together.
        shard: I/N takes every N-th target from the I-th on, so that N runs into one folder share the work; once they
            have ended, the run without it writes the results of all.

    Raises:
        ConfigError: Both `split` and `class_names` are given, or a number is out of range.
    """

    def __init__(
        self,
        references: Path | None = None,
        reference_images: Path | None = None,
        targets: Path | None = None,
        target_images: Path | None = None,
        *,
        split: str | None = None,
        class_names: list[str] | None = None,
        reference_annotations: Path | None = None,
        negative_references: Path | None = None,
        negative_images: Path | None = None,
        max_targets: int | None = None,
        num_workers: int = 0,
        batch_size: int = 1,
        shard: str | None = None,
    ) -> None:
        super().__init__()
        # Few images over many processes: some get none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if split is not None and class_names is not None:
            raise ConfigError("both split and class_names are given", remedy="give one of them")
        check_number("data.max_targets", max_targets, 1, 10**12, "leave it out for all of them")
        check_number("data.num_workers", num_workers, 0, MOST_WORKERS, "every worker is a process")
        check_number("data.batch_size", batch_size, 1, MOST_IN_BATCH, TOGETHER)
        self.references = references
        self.reference_images = reference_images
        self.targets = targets
        self.target_images = target_images
        self.class_names = list(resolve_split(split)) if split is not None else class_names
        self.reference_annotations = reference_annotations
        self.negative_references = negative_references
        self.negative_images = negative_images or reference_images
        self.max_targets = max_targets
        self.num_workers = num_workers
        self.batch_size = batch_size
        self.shard = shard
        if shard is not None:
            share_of((), shard)
        self._reference_set: ReferenceSet | None = None
        self._targets: CocoDataset | None = None
        self._target_datasets: dict[tuple[str, ...], CocoDataset] = {}
        self._negative_sets: dict[tuple[str, ...], tuple[Reference, ...]] = {}

    def files(self) -> dict[str, Path | None]:
        """Return the files of annotations that are read, by the settings that name them."""
        return {
            "data.references": self.references,
            "data.reference_annotations": self.reference_annotations,
            "data.targets": self.targets,
            "data.negative_references": self.negative_references,
        }

    def reference_set(self) -> ReferenceSet:
        """Read the references, once, and say by which classes.

        Raises:
            ConfigError: `references` is not set.
            NoTimeToTrainError: As `load_references` does.
        """
        if self._reference_set is None:
            what = "a COCO JSON of references, as ntt sample-references writes"
            self._reference_set = load_references(
                _required(self.references, "references", what),
                class_names=self.class_names,
                annotations=self.reference_annotations,
            )
        return self._reference_set

    def check_targets(self) -> None:
        """Refuse targets that are not there, before any model is loaded.

        Raises:
            ConfigError: `target_images` is not set.
            DataNotFoundError: The folder or the JSON is missing.
            AnnotationError: The JSON is malformed, or a mask in it is.
            MaskSizeError: A mask is of another size than its image.
        """
        _folder(self.target_images, "target_images")
        if self.targets is not None and not self.targets.is_file():
            raise DataNotFoundError(f"data.targets: there is no file {self.targets}", remedy="check the path")
        if self.targets is not None and self._targets is None:
            self._targets = load_coco(self.targets)
            check_masks(self._targets)

    def target_dataset(self, class_names: Sequence[str]) -> CocoDataset:
        """Read the targets' records, once, and their annotations of these classes where there are any.

        Raises:
            NoTimeToTrainError: As `check_targets` and `load_coco` do, or a class is not among the targets' categories.
        """
        names = tuple(class_names)
        if names not in self._target_datasets:
            self.check_targets()
            folder = _folder(self.target_images, "target_images")
            if self._targets is None:
                dataset = CocoDataset(_records_of(folder, self.max_targets), (), (), str(folder))
            else:
                dataset = self._targets.select(names)
            self._target_datasets[names] = dataset.first(self.max_targets)
            if self.trainer is None or self.trainer.is_global_zero:
                for doubt in doubts_of(self._target_datasets[names]):
                    log.warning(doubt)
        return self._target_datasets[names]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return this process's share of what the module wants to read, a loader for each kind, in order."""
        module: Any = self.trainer.lightning_module if self.trainer else None
        kinds, class_names = module.wanted_data()
        makers: dict[str, Callable[[], DataLoader[Any]]] = {
            "references": self.reference_dataloader,
            "negatives": lambda: self.negative_dataloader(class_names),
            "targets": lambda: self.target_dataloader(class_names),
        }
        if self.negative_references is not None:
            makers["optional negatives"] = makers["negatives"]
        loaders = [makers[kind]() for kind in kinds if kind in makers]
        # Lightning runs no hook without data.
        return loaders or [DataLoader(cast("Dataset[None]", [None]), batch_size=None)]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """See `test_dataloader`."""
        return self.test_dataloader()

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """See `test_dataloader`."""
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave items where they are: the baseline moves pixels, once they are resized."""
        return batch

    def reference_dataloader(self) -> DataLoader[ReferenceItem]:
        """Return a loader of this process's share of the references."""
        folder = _folder(self.reference_images, "reference_images")
        return self._loader(ReferenceDataset(self.reference_set().references, folder))

    def negative_set(self, class_names: Sequence[str]) -> tuple[Reference, ...]:
        """Read the negative references of these classes, once.

        Raises:
            ConfigError: `negative_references` is not set.
            NoTimeToTrainError: As `load_negative_references` does.
        """
        names = tuple(class_names)
        if names not in self._negative_sets:
            path = _required(self.negative_references, "negative_references", "a COCO JSON of negative references")
            self._negative_sets[names] = load_negative_references(path, names)
        return self._negative_sets[names]

    def negative_dataloader(self, class_names: Sequence[str]) -> DataLoader[ReferenceItem]:
        """Return a loader of this process's share of the negative references of these classes."""
        folder = _folder(self.negative_images, "negative_images")
        return self._loader(ReferenceDataset(self.negative_set(class_names), folder))

    def target_dataloader(self, class_names: Sequence[str]) -> DataLoader[TargetItem]:
        """Return a loader of lists of targets, this process's share of them."""
        records = self.target_dataset(class_names).images
        module: Any = self.trainer.lightning_module if self.trainer else None
        stamped = getattr(module, "keeps_targets", False)
        dataset = TargetDataset(records, _folder(self.target_images, "target_images"), stamped=stamped)
        if self.shard is not None:
            mine = share_of(range(len(dataset)), self.shard)
            return self._loader(Subset(cast("Dataset[Any]", dataset), mine), self.batch_size, list)
        return self._loader(dataset, self.batch_size, list)

    def _loader(
        self,
        dataset: ReferenceDataset | TargetDataset | Subset[Any],
        batch_size: int = 1,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> DataLoader:  # type: ignore[type-arg] # the same
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(
            cast("Dataset[Any]", dataset),
            batch_size=batch_size,
            collate_fn=collate or _only,
            sampler=NonRepeatingSampler(dataset, world, rank),
            num_workers=self.num_workers,
            persistent_workers=False,
        )


def _only(items: list[ReferenceItem]) -> ReferenceItem:
    return items[0]


def _records_of(folder: Path, count: int | None) -> tuple[ImageRecord, ...]:
    records = []
    # What cannot be read is listed too, and ends the run here, before anything is computed.
    for index, path in enumerate(itertools.islice(list_images(folder).values(), count), start=1):
        width, height = image_size(path)
        records.append(ImageRecord(index, str(path.relative_to(folder)), width, height))
    if not records:
        raise DataNotFoundError(f"no images in {folder}", remedy="name a folder that holds JPEG or PNG files")
    return tuple(records)


def _required(path: Path | None, name: str, what: str) -> Path:
    if path is None:
        raise ConfigError(f"data.{name} is not set", remedy=f"give {what}")
    return path


def _folder(path: Path | None, name: str) -> Path:
    folder = _required(path, name, "the folder of the images")
    if not folder.is_dir():
        raise DataNotFoundError(f"data.{name}: there is no folder {folder}", remedy="check the path")
    return folder
