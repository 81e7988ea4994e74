"""Weights as torch's tensors.

Loading is strict: a model on the meta device takes the tensors of a file by assignment, or says why not.
"""

import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from no_time_to_train.configs.encoders import Family
from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.architecture import wrong_shapes
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.formats.torch_pickle import read_structure
from no_time_to_train.weights.layouts.mapping import hub_tensors


def as_tensor(stored: StoredTensor) -> Tensor:
    """Return a stored tensor as torch's, memory-mapped where it is in one place of a file."""
    array = stored.array()
    if not array.flags.aligned:
        array = array.copy()
    return torch.from_numpy(array.reshape(-1).view("uint8")).view(getattr(torch, array.dtype.name)).reshape(array.shape)


def from_tensor(tensor: Tensor) -> StoredTensor:
    """Make a stored tensor of values in memory."""
    plain = tensor.detach().cpu().contiguous()
    content = plain.flatten().view(torch.uint8).numpy().tobytes()
    return StoredTensor(np.dtype(str(plain.dtype).removeprefix("torch.")), tuple(plain.shape), (content,))


def hub_state(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return a small model's own state by the names of the Hub's files; see `hub_tensors`."""
    named = hub_tensors({name: from_tensor(tensor) for name, tensor in state.items()}, family, "the model")
    return {name: as_tensor(tensor) for name, tensor in named.items()}


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
        WeightsFormatError: Integers stand where the model has floating-point numbers, or some are not finite.
    """
    own = model.state_dict(keep_vars=True)
    missing = sorted(own.keys() - tensors.keys() - set(optional))
    unexpected = sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind}: {first_of(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise KeyMismatchError(
            f"the tensors of {source} are not those of {type(model).__name__}: {'; '.join(parts)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    wrong = wrong_shapes(tensors, {name: value.shape for name, value in own.items()})
    if wrong:
        raise ShapeMismatchError(
            f"{len(wrong)} tensors of {source} do not fit {type(model).__name__}: {first_of(wrong)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    numbers = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if own[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if numbers:
        raise WeightsFormatError(
            f"{len(numbers)} tensors of {source} are not of floating point: {first_of(numbers)}",
            remedy="quantised weights are not read; name the original file",
        )
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise WeightsFormatError(
            f"{len(broken)} tensors of {source} hold NaN or infinite values: {first_of(broken)}", remedy=FETCH_AGAIN
        )
    for name, tensor in tensors.items():
        _assign(model, name, own[name], tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite in float32; of a tensor without values nothing is known."""
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    # A sum reads the values once and keeps nothing; it may overflow where no value does.
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.float().isfinite().all())


def _assign(model: nn.Module, name: str, old: Tensor, new: Tensor) -> None:
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, new)


def safe_torch_load(file: Path) -> Any:
    """Read a pickle of torch's, of which nothing is run.

    Args:
        file: As `torch.save` wrote it.

    Raises:
        UnsafeWeightsError: It asks for more than tensors and plain containers.
        WeightsFormatError: It is damaged, or no pickle.
    """
    read_structure(file, verify=True)
    try:
        with warnings.catch_warnings():
            # What is wrong with a file is said once, by the error: quantized tensors, for example, make torch warn.
            warnings.simplefilter("ignore")
            # Only zip archives can be memory-mapped; the legacy format, which few files still have, is read whole.
            return torch.load(file, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(file))
    except Exception as error:  # what a damaged pickle does to its reader has no limits
        first_line = str(error).split("\n")[0]
        raise WeightsFormatError(
            f"{file} is not a complete PyTorch weights file: {first_line}", remedy=FETCH_AGAIN
        ) from error
