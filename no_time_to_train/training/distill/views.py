"""Views of images for training without labels: batches that are the same whoever draws them, and whenever."""

import hashlib
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import center_crop, pil_to_tensor

from no_time_to_train.configs.limits import check_number
from no_time_to_train.errors import ConfigError, ImageReadError
from no_time_to_train.pl_wrapper.distributed import rank_and_world
from no_time_to_train.training.distill.image_sources import ImageSource

_MOST_UNREADABLE = 0.01
_MOST_ELONGATED = 8
_LONGEST_SIDE = 2**15


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How images are augmented; each view is its image's own.

    Attributes:
        size: Side of the square views, in pixels.
        smallest_crop: Smallest area that is cut out, as a share of the image's.
        flip: Probability of a mirror image.
        brightness: Largest change, as a share.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest turn, as a share of the circle; at most 0.5.
    """

    size: int = 224
    smallest_crop: float = 0.3
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.2
    hue: float = 0.05

    def __post_init__(self) -> None:
        check_number("data.views.size", self.size, 1, _LONGEST_SIDE, "no encoder takes larger images")
        if not 0 < self.smallest_crop <= 1 or not 0 <= self.flip <= 1 or not 0 <= self.hue <= 0.5:
            raise ConfigError(f"{self} makes no sense", remedy="correct data.views in the YAML")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ConfigError(f"{self} makes no sense", remedy="correct data.views in the YAML")


class ViewBatch(NamedTuple):
    """A batch of views.

    Attributes:
        images: RGB in [0, 1].
        labels: The class of each, -1 where there is none.
    """

    images: Float[Tensor, "B 3 S S"]
    labels: Int[Tensor, " B"]


class _View(NamedTuple):
    image: Tensor
    label: int
    unreadable: tuple[tuple[str, str], ...]


class Views(Dataset[_View]):
    """A view of every image, drawn by seed, epoch and index alone.

    Args:
        source: The images.
        config: How they are augmented.
        seed: Of the augmentation; None leaves it out, and views are the middle of the image.
    """

    def __init__(self, source: ImageSource, config: ViewConfig, *, seed: int | None) -> None:
        self.source, self.size, self.seed = source, config.size, seed
        steps: list[Any]
        if seed is None:
            steps = [_middle, v2.Resize(config.size, antialias=True), v2.CenterCrop(config.size)]
        else:
            steps = [
                v2.RandomResizedCrop(config.size, scale=(config.smallest_crop, 1.0), antialias=True),
                v2.RandomHorizontalFlip(config.flip),
                v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
            ]
        self._transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> _View:
        """Return the view of an image in an epoch; where it cannot be read, that of the next that can."""
        epoch, first = place
        unreadable = []
        for step in range(len(self)):
            index = (first + step) % len(self)
            try:
                image = pil_to_tensor(self.source.load(index))
            except ImageReadError as error:
                unreadable.append((self.source.name(index), str(error)))
                if len(unreadable) <= _MOST_UNREADABLE * len(self):
                    continue
                # Too many: who takes the batch says so, for an error would not come through from another process.
                return _View(torch.zeros(3, self.size, self.size), -1, tuple(unreadable))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_mixed(self.seed or 0, epoch, first))
                return _View(self._transform(image), self.source.label(index), tuple(unreadable))
        raise ImageReadError("there are no images", remedy="name some")


class ViewBatches:
    """Batches of views; an iteration that was stopped can be taken up where it stood.

    All processes together see the batches that one would see whose batches were as large as theirs together.

    Args:
        views: The views.
        batch_size: Images a step, of this process.
        seed: Of the order, which is another one in each epoch; with None images come in their own order, and a smaller
            last batch is kept.
        num_workers: Processes that read ahead.

    Attributes:
        unreadable: Images that could not be read so far, and why.
    """

    def __init__(self, views: Views, batch_size: int, *, seed: int | None, num_workers: int = 0) -> None:
        self.views, self.batch_size, self.seed, self.num_workers = views, batch_size, seed, num_workers
        self.epoch = self.position = 0
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        together = self.batch_size * rank_and_world()[1]
        return len(self.views) // together if self.seed is not None else -(-len(self.views) // together)

    def __iter__(self) -> Iterator[ViewBatch]:
        """Go through the rest of the epoch, or through the next one if it is at its end.

        Raises:
            ImageReadError: More than one image in a hundred cannot be read.
        """
        if self.seed is None:
            self.position = 0
        elif self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        world = rank_and_world()[1]
        if len(self.views) < world:
            raise ConfigError(
                f"{len(self.views)} images for {world} processes leave some without any", remedy="name more images"
            )
        if self.num_workers:
            multiprocessing.get_context("forkserver").set_forkserver_preload(
                ["no_time_to_train.training.distill.views"]
            )
        loader = DataLoader(
            self.views,
            batch_sampler=self._places(),
            num_workers=self.num_workers,
            collate_fn=_collate,
            # JAX, which the callbacks use, and forked processes don't go together.
            multiprocessing_context="forkserver" if self.num_workers else None,
            # It would draw a seed for its processes, which need none, from the global one.
            generator=torch.Generator(),
        )
        for batch, unreadable in loader:
            self.position += 1
            self._count(unreadable)
            yield batch

    def _places(self) -> list[list[tuple[int, int]]]:
        order = np.arange(len(self.views))
        if self.seed is not None:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        rank, world = rank_and_world()
        together = self.batch_size * world
        starts = range(self.position * together, len(self) * together, together)
        batches = [order[start : start + together][rank::world] for start in starts]
        return [[(self.epoch, int(index)) for index in batch] for batch in batches if len(batch)]

    def _count(self, unreadable: Sequence[tuple[str, str]]) -> None:
        for name, why in unreadable:
            if name not in self.unreadable:
                self.unreadable[name] = why
                warnings.warn(f"{why}; it is skipped", UserWarning, stacklevel=2)
        if len(self.unreadable) > _MOST_UNREADABLE * len(self.views):
            first = ", ".join(list(self.unreadable)[:3])
            raise ImageReadError(
                f"{len(self.unreadable)} of {len(self.views)} images cannot be read, more than 1 %: {first}",
                remedy="mend or remove them",
            )

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands; Lightning keeps it in its checkpoints."""
        return {"epoch": self.epoch, "position": self.position, "unreadable": dict(self.unreadable)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]
        self.unreadable = dict(state_dict["unreadable"])


def _collate(views: Sequence[_View]) -> tuple[ViewBatch, list[tuple[str, str]]]:
    images, labels = torch.stack([view.image for view in views]), torch.tensor([view.label for view in views])
    return ViewBatch(images, labels), [entry for view in views for entry in view.unreadable]


def _middle(image: Tensor) -> Tensor:
    """Cut off the ends of an image so long that it would not fit in memory once its shorter side is enlarged."""
    height, width = image.shape[-2:]
    longest = _MOST_ELONGATED * min(height, width)
    cut: Tensor = center_crop(image, [min(height, longest), min(width, longest)])
    return cut


def _mixed(*numbers: int) -> int:
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
