"""Reading tensors from weight files: safetensors, sharded safetensors and Meta's pickled state dicts.

Nothing here knows a model. Tensors are memory-mapped, so that looking at a file does not load it.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError

SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
# How torch 2.15 names what a pickle asks for and may not have.
_REFUSED = re.compile(r"[^\n:]*(?:GLOBAL|Unsupported (?:class|global))[^\n]*?(?= Please|\n|$)")
_FETCH_AGAIN = "fetch the file again, it may have been cut off while it was copied"


def find_weights_file(path: Path) -> Path:
    """Return the file that holds the weights at `path`, which is a file or a Hugging Face folder.

    Raises:
        WeightsNotFoundError: There is nothing at `path`, or the folder holds no weights file, or the file is empty.
    """
    if path.is_dir():
        for name in ("model.safetensors", SAFETENSORS_INDEX, "pytorch_model.bin"):
            if (path / name).is_file():
                return find_weights_file(path / name)
        held = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise WeightsNotFoundError(
            f"no weights in the folder {path}: expected model.safetensors or {SAFETENSORS_INDEX}, it holds {held}",
            remedy="name the weights file itself, or fetch the folder again",
        )
    if not path.is_file():
        raise WeightsNotFoundError(
            f"no weights at {path}", remedy="check the path, or put the file there; checkpoints/README.md says where"
        )
    if path.stat().st_size == 0:
        raise WeightsNotFoundError(f"the weights file {path} is empty", remedy=_FETCH_AGAIN)
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file or folder, memory-mapped on the CPU.

    Args:
        path: A `.safetensors` file, a Hugging Face folder (sharded or not), or a pickled state dict (`.pth`, `.pt`),
            plain or under the key ``model`` or ``state_dict``.

    Returns:
        Tensors by the names that the file gives them, in the dtype in which they are stored.

    Raises:
        WeightsNotFoundError: There is no such file.
        UnsafeWeightsError: The pickle asks for more than tensors and plain containers.
        WeightsFormatError: The file is truncated or is no weights file.
    """
    file = find_weights_file(path)
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix in PICKLE_SUFFIXES:
        return _read_pickle(file)
    raise WeightsFormatError(
        f"{file} has the ending {file.suffix!r}, expected .safetensors, {', '.join(PICKLE_SUFFIXES)} or a folder",
        remedy="name the weights file, or rename it if the ending is wrong",
    )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}
    except (SafetensorError, OSError) as error:
        raise WeightsFormatError(f"{file} is no whole safetensors file: {error}", remedy=_FETCH_AGAIN) from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise WeightsFormatError(f"{index} is no safetensors index: {error!r}", remedy=_FETCH_AGAIN) from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise WeightsFormatError(
            f"{index} is no safetensors index: its weight_map does not give a file for each tensor", remedy=_FETCH_AGAIN
        )
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or shard in {"", ".", ".."}:
            raise UnsafeWeightsError(
                f"{index} names a shard outside its folder: {shard}", remedy="fetch the folder from a trusted source"
            )
        tensors.update(_read_safetensors(find_weights_file(index.parent / shard)))
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise WeightsFormatError(
            f"{index} lists {len(missing)} tensors that no shard holds, first {missing[0]}", remedy=_FETCH_AGAIN
        )
    return tensors


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        # Only zip archives can be memory-mapped; the legacy format, which few files still have, is read whole.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = _REFUSED.search(str(error))
        if reason:
            raise UnsafeWeightsError(
                f"{file} is a pickle that asks for more than tensors, so it was not loaded: {reason[0].strip()}",
                remedy="export the plain state dict with torch.save(model.state_dict(), ...), or use safetensors",
            ) from error
        raise WeightsFormatError(f"{file} is no PyTorch weights file", remedy=_FETCH_AGAIN) from error
    except Exception as error:  # what a damaged pickle does to its reader has no limits
        first_line = str(error).split("\n")[0]
        raise WeightsFormatError(
            f"{file} is no whole PyTorch weights file: {first_line}", remedy=_FETCH_AGAIN
        ) from error
    return _state_dict_in(loaded, file)


def _state_dict_in(loaded: Any, file: Path) -> dict[str, Tensor]:
    """Find the state dict in what a pickle holds: the mapping itself, or the one under a customary key."""
    if isinstance(loaded, Mapping):
        for key in ("model", "state_dict", "teacher"):
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()) or not loaded:
        raise WeightsFormatError(
            f"{file} holds no state dict: expected a mapping of names to tensors, got {type(loaded).__name__}",
            remedy="save the model's state_dict()",
        )
    return {str(key): value for key, value in loaded.items()}
