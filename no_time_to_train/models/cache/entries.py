"""Which tensors can be what a feature cache keeps: names, types, shapes, and numbers that are finite."""

from collections.abc import Mapping

import numpy as np

from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.configs.pipeline import ResizePolicy
from no_time_to_train.encoders.preprocessing import EncoderInput, encoder_size
from no_time_to_train.matching.array_ops import Array, to_numpy
from no_time_to_train.proposers.base import PromptableModel


def are_patches(tensors: Mapping[str, Array], image: Array, encoder: EncoderInput, policy: ResizePolicy) -> bool:
    """Return whether tensors can be the patch features of an image."""
    grid = grid_size(*encoder_size(image.shape[1], image.shape[2], encoder, policy), encoder.config)
    return _are(tensors, {"patches": (*grid, encoder.config.embed_dim)})


def are_embedding(tensors: Mapping[str, Array], model: PromptableModel) -> bool:
    """Return whether tensors can be an image's embedding."""
    return _are(tensors, model.embedding_shapes)


def are_masks(tensors: Mapping[str, Array], model: PromptableModel) -> bool:
    """Return whether tensors can be masks that were proposed; `unpack_masks` finds out whether they fit together."""
    if tensors.keys() != {"size", "runs", "outlines", "predicted_iou"} or tensors["size"].shape != (3,):
        return False
    count, height, width = tensors["size"].tolist()
    # Larger than the model's input they never are, and too large they would not fit in memory.
    if not 0 < height <= model.image_size or not 0 < width <= model.image_size:
        return False
    runs = tensors["runs"]
    if runs.ndim != 1 or _dtype(runs) not in ("int32", "int64") or bool((runs < 0).any()):
        return False
    values = {name: tensors[name] for name in ("outlines", "predicted_iou")}
    shapes = {"outlines": (len(to_numpy(values["outlines"]).reshape(-1)),), "predicted_iou": (count,)}
    return int(runs.sum()) == count * height * width and _are(values, shapes)


def _are(tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether tensors have these names and shapes, are float32, and finite."""
    return tensors.keys() == shapes.keys() and all(
        tuple(tensor.shape) == shapes[name]
        and _dtype(tensor) == "float32"
        and bool(np.isfinite(to_numpy(tensor)).all())
        for name, tensor in tensors.items()
    )


def _dtype(tensor: Array) -> str:
    return str(tensor.dtype).removeprefix("torch.")
