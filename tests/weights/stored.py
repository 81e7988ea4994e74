"""torch's tensors as stored ones."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.load import from_tensor


def stored(state: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Store tensors in memory; those of the meta device have a shape and no bytes."""
    return {
        name: StoredTensor(np.dtype(np.float32), tuple(tensor.shape), ()) if tensor.is_meta else from_tensor(tensor)
        for name, tensor in state.items()
    }
