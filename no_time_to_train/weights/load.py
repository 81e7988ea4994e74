"""Strict loading: a model on the meta device takes the tensors of a file by assignment, or says why not."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError

_SHOWN = 10


def assign_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    optional: Collection[str] = (),
) -> None:
    """Fill a model built on the meta device, tensor by tensor, so that the weights never exist twice.

    Args:
        model: Its parameters and persistent buffers are replaced; they may be on the meta device.
        tensors: Values by the model's own names.
        source: The file's name, for messages.
        dtype: Floating-point tensors are cast to it.
        device: Where the tensors go.
        optional: Names which the model has and the file may lack; those are left as they are.

    Raises:
        KeyMismatchError: The file lacks tensors of the model, or holds others.
        ShapeMismatchError: A tensor's shape differs.
    """
    own = model.state_dict(keep_vars=True)
    missing = sorted(own.keys() - tensors.keys() - set(optional))
    unexpected = sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind}: {_first(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise KeyMismatchError(
            f"the tensors of {source} are not those of {type(model).__name__}: {'; '.join(parts)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    wrong = [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        raise ShapeMismatchError(
            f"{len(wrong)} tensors of {source} do not fit {type(model).__name__}: {_first(wrong)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    for name, tensor in tensors.items():
        _assign(model, name, own[name], tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))


def _assign(model: nn.Module, name: str, old: Tensor, new: Tensor) -> None:
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, new)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
