"""Torch tensors and NumPy arrays: what the array API standard lacks.

Matching is written once, over the standard (``xp = array_namespace(array)``), so that it runs without torch. The
operators here are torch's own on tensors, for speed on every device, and NumPy's on arrays.
"""

import sys
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device
from array_api_compat import numpy as numpy_namespace
from jaxtyping import Float, Int

__all__ = [
    "Array",
    "array_namespace",
    "array_on",
    "as_float",
    "as_like",
    "default_namespace",
    "device",
    "foreground_of",
    "is_numpy",
    "max_by_class",
    "normalize",
    "on_cpu",
    "sum_by_class",
    "take",
    "to_numpy",
]

# A torch.Tensor or a numpy.ndarray, which have no static type in common.
Array: TypeAlias = Any


def is_numpy(array: Array) -> bool:
    """Return whether this is a NumPy array and not a torch tensor."""
    return isinstance(array, np.ndarray)


def default_namespace() -> Any:
    """Return the namespace of torch where it has been imported, and of NumPy otherwise."""
    if sys.modules.get("torch") is None:
        return numpy_namespace
    from array_api_compat import torch as torch_namespace

    return torch_namespace


def to_numpy(array: Array) -> Any:
    """Return the values as a NumPy array."""
    return array if is_numpy(array) else array.detach().cpu().numpy()


def as_like(array: Array, like: Array) -> Array:
    """Return the values as an array of the same kind and on the same device as another one, without gradients."""
    if is_numpy(like):
        return to_numpy(array)
    import torch

    return torch.as_tensor(array, device=like.device).detach()


def array_on(device: Any) -> Array:
    """Return an empty array on a device: torch's on a `torch.device`, NumPy's on `cpu`."""
    if isinstance(device, str):
        return np.empty(0, dtype=np.float32)
    import torch

    return torch.empty(0, device=device)


def on_cpu(array: Array) -> Array:
    """Return the values as an array of the same kind in the CPU's memory."""
    return array if is_numpy(array) else array.cpu()


def as_float(array: Array) -> Array:
    """Return the values in float32."""
    return array.astype(np.float32, copy=False) if is_numpy(array) else array.float()


def foreground_of(logits: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Return 1 where values are above 0 and 0 elsewhere, in float32, in one pass: without an array of booleans."""
    if is_numpy(logits):
        return np.greater(logits, 0, out=np.empty(logits.shape, np.float32))
    import torch

    return torch.gt(logits, 0, out=torch.empty_like(logits, dtype=torch.float32))


def take(array: Array, indices: Int[Array, " K"], axis: int) -> Array:
    """Return the entries of an axis at indices of 0 or more; the standard's wrapper checks each for being negative."""
    return array.take(indices, axis) if is_numpy(array) else array.index_select(axis, indices)


def normalize(rows: Float[Array, "*any D"]) -> Float[Array, "*any D"]:
    """Return rows divided by their L2 norms, or by 1e-12 where that is larger."""
    norms = array_namespace(rows).linalg.vector_norm(rows, axis=-1, keepdims=True)
    return rows / norms.clip(min=1e-12)


def max_by_class(values: Float[Array, "N R"], classes: Int[Array, " R"], count: int) -> Float[Array, "N {count}"]:
    """Return the largest column of each of `count` classes; 0 for a class that has no positive one."""
    xp = array_namespace(values)
    largest = xp.zeros((len(values), count), dtype=values.dtype, device=device(values))
    if not is_numpy(values):
        return largest.scatter_reduce_(1, classes.expand_as(values), values, "amax")
    np.maximum.at(largest.T, classes, values.T)
    return largest


def sum_by_class(rows: Float[Array, "R D"], classes: Int[Array, " R"], count: int) -> Float[Array, "{count} D"]:
    """Return for each of `count` classes the sum of its rows."""
    xp = array_namespace(rows)
    sums = xp.zeros((count, rows.shape[1]), dtype=rows.dtype, device=device(rows))
    if not is_numpy(rows):
        return sums.index_add_(0, classes, rows)
    np.add.at(sums, classes, rows)
    return sums
