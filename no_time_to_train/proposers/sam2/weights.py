"""SAM2's network with its weights: from Meta's files, from transformers' folders, or random."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from no_time_to_train.errors import ShapeMismatchError
from no_time_to_train.proposers.sam2.configs import describe_shape, shape_of
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.layouts.sam2 import (
    POSITION_BUFFERS,
    hiera_shape,
    image_part_of_transformers,
    meta_sam2_to_transformers,
    sam2_layout,
)
from no_time_to_train.weights.load import as_tensor, assign_tensors


def new_sam2(config: Sam2Config, *, seed: int = 0) -> Sam2Model:
    """Build a SAM2 with random weights, whose prompts and image share their positions; for training one.

    Args:
        config: Sizes of the model.
        seed: Of the weights; the global generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(config)
    set_positions(model, model.shared_image_embedding.positional_embedding)
    return model


def load_sam2(config: Sam2Config, path: Path, *, dtype: torch.dtype, device: torch.device | str) -> Sam2Model:
    """Build a SAM2 and fill it with weights, which exist in memory once.

    Args:
        config: Sizes of the model.
        path: A file or folder in Meta's or transformers' layout.
        dtype: Of the weights; the matrix of the positions stays in float32.
        device: Where the weights go.

    Raises:
        ShapeMismatchError: The weights are of another SAM2.
        KeyMismatchError: Tensors are missing or unknown.
        WeightsFormatError: The file is broken, or not of SAM2.
    """
    stored = open_weights(path).tensors
    if sam2_layout(stored, source=str(path)) == "meta":
        stored = meta_sam2_to_transformers(stored, source=str(path))
    else:
        stored = image_part_of_transformers(stored)
    expected, got = shape_of(config), hiera_shape(stored)
    if got is not None and got != expected:
        raise ShapeMismatchError(
            f"{path} is {describe_shape(got)}, expected {describe_shape(expected)}",
            remedy="name the configuration that the checkpoint was made for",
        )
    with torch.device("meta"):
        model = _new_model(config)
    tensors = {name: as_tensor(tensor) for name, tensor in stored.items()}
    assign_tensors(model, tensors, source=str(path), dtype=dtype, device=device)
    set_positions(model, tensors[POSITION_BUFFERS[0]].to(device))
    assert not any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers()))
    return model


def _new_model(config: Sam2Config) -> Sam2Model:
    # transformers wraps the constructor, after which type checkers count its self as an argument.
    return cast(Callable[[Sam2Config], Sam2Model], Sam2Model)(config)


def set_positions(model: Sam2Model, matrix: Float[Tensor, "2 C"]) -> None:
    """Give prompts and image the same positions, in float32: transformers draws a matrix for each."""
    for name in POSITION_BUFFERS:
        module, _, leaf = name.rpartition(".")
        model.get_submodule(module).register_buffer(leaf, matrix.float().clone())
