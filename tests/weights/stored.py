"""torch's tensors as stored ones, and the other way round."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.load import as_tensor, from_tensor


def stored(state: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Store tensors in memory; those of the meta device have a shape and no bytes."""
    return {
        name: StoredTensor(np.dtype(np.float32), tuple(tensor.shape), ()) if tensor.is_meta else from_tensor(tensor)
        for name, tensor in state.items()
    }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file or folder, memory-mapped."""
    return {name: as_tensor(tensor) for name, tensor in open_weights(path).tensors.items()}
