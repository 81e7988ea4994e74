"""The plainest feature there is, to measure an encoder against: the colour of a pixel."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from no_time_to_train.configs.encoders import IMAGENET_MEAN
from no_time_to_train.matching import MemoryBank

NAME = "mean_colour"
_GRID = 64


def colour_patches(image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w 3"]:
    """Return the mean colour of each cell of a 64x64 grid, less the mean colour of photographs.

    Averaged over a mask, it is the mask's mean colour; without the mean, all colours would point the same way.
    """
    cells = functional.interpolate(image[None].float() / 255, (_GRID, _GRID), mode="area")[0].permute(1, 2, 0)
    return cells - cells.new_tensor(IMAGENET_MEAN)


def colour_bank(class_names: tuple[str, ...]) -> MemoryBank:
    """Begin a memory of colours."""
    return MemoryBank(class_names, 3, NAME)


def mean_colour(image: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> Float[Tensor, "3"]:
    """Return the mean colour of a reference, as `colour_patches` has it."""
    return image[:, mask].float().mean(dim=1) / 255 - torch.tensor(IMAGENET_MEAN)
