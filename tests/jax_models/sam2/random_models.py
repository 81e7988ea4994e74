"""transformers' SAM2 with random weights, and the Equinox model with the same ones."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import Sam2Config, Sam2Model

from no_time_to_train.configs.sam2 import SAM2_CONFIGS, read_sam2_architecture
from no_time_to_train.jax_models.load import leaf_names
from no_time_to_train.jax_models.sam2 import Sam2
from no_time_to_train.jax_models.sam2.load import abstract_sam2
from no_time_to_train.proposers.sam2.configs import to_transformers
from no_time_to_train.proposers.sam2.weights import new_sam2


def random_torch_model(config: Sam2Config, dtype: torch.dtype = torch.float32) -> Sam2Model:
    """Build a model and move every parameter off its initial value, positions that start at zero too."""
    model: Any = new_sam2(config)
    model.to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    built: Sam2Model = model.requires_grad_(False).eval()
    return built


def small_config(name: str, image_size: int) -> Sam2Config:
    """Return a released model's configuration, for smaller images."""
    return to_transformers(dataclasses.replace(SAM2_CONFIGS[name], image_size=image_size))


def equinox_of(model: Sam2Model) -> Sam2:
    """Give the Equinox model the weights of transformers' one, in their dtype."""
    abstract = abstract_sam2(read_sam2_architecture(model.config.to_dict(), source="the model"))
    state: dict[str, Any] = {**model.state_dict(), **dict(model.named_buffers())}
    leaves, tree = jax.tree_util.tree_flatten(abstract)
    values = [
        jnp.asarray(state[name].numpy().reshape(leaf.shape))
        for name, leaf in zip(leaf_names(abstract), leaves, strict=True)
    ]
    filled: Sam2 = jax.tree_util.tree_unflatten(tree, values)
    return filled


def relative(found: Any, expected: torch.Tensor) -> float:
    """Return the largest difference, in units of the largest number that was expected."""
    wanted = expected.numpy()
    got = np.asarray(found)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
