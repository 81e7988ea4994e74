"""RoPE periods of a DINOv3 ViT: by their formula, or as a file states them."""

import json
from pathlib import Path

import ml_dtypes  # noqa: F401 # NumPy knows bfloat16 by its name then
import numpy as np
from jaxtyping import Float

from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN, parse_object
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, WeightsFile, from_array

# Where a safetensors file keeps the RoPE periods of Meta's file that it was made from, as JSON.
ROPE_PERIODS = "rope_periods"
# The tensors that hold them: Meta's, those of our Equinox models, Equimo's.
_NAMES = ("rope_embed.periods", "rope_periods", "local_pos_embed.periods")


def rope_periods(head_dim: int, base: float) -> Float[np.ndarray, " quarter_head"]:
    """Return the RoPE periods by Meta's formula, in float32.

    The powers are computed in float64 and rounded: so they are the same on every processor.

    Args:
        head_dim: Width of an attention head.
        base: Of the powers, `rope_theta`.
    """
    exponents = np.arange(head_dim // 4, dtype=np.float32) / np.float32(head_dim // 4)
    periods: Float[np.ndarray, " quarter_head"] = (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)
    return periods


def stored_periods(file: WeightsFile) -> StoredTensor | None:
    """Return the RoPE periods that a file states, in the dtype in which it does; None where it states none.

    Meta's files hold them as a tensor, folders that `ntt convert` wrote as metadata. An Equinox file always holds
    them, and says in its header whether they were stored in the file that it was made from.

    Raises:
        WeightsFormatError: They are not positive numbers: features are divided by them.
    """
    found = None
    if file.header.get("rope_periods") != "computed":
        found = next((file.tensors[name] for name in _NAMES if name in file.tensors), None)
    if found is None and ROPE_PERIODS in file.metadata:
        found = _of_json(file.metadata[ROPE_PERIODS], file.files[0])
    if found is not None:
        values = found.array().astype(np.float32).reshape(-1)
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if len(wrong):
            raise WeightsFormatError(
                f"{file.files[0]} holds RoPE periods that are not positive numbers, such as {wrong[0]}",
                remedy=FETCH_AGAIN,
            )
    return found


def periods_as_json(periods: StoredTensor) -> str:
    """Return RoPE periods as a safetensors file's metadata has them."""
    return json.dumps({"dtype": periods.dtype.name, "values": periods.array().astype(np.float64).tolist()})


def _of_json(text: str, file: Path) -> StoredTensor:
    content = parse_object(text, f"{ROPE_PERIODS} in {file}")
    try:
        if content["dtype"] not in ("float32", "bfloat16", "float16"):
            raise ValueError(content["dtype"])
        return from_array(np.array(content["values"], np.float64).astype(content["dtype"]))
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise WeightsFormatError(
            f"{file} holds RoPE periods that are not numbers", remedy="convert the original weights again"
        ) from error
