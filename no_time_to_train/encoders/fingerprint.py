"""The identity of weights."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# Of a configuration of transformers, what says how and by whom its file was written.
_OF_THE_FILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def weights_digest(module: nn.Module, settings: str = "") -> str:
    """Hash every parameter and buffer of a module: names, dtypes, shapes and values.

    Args:
        module: Its weights are read once, those on a GPU too.
        settings: What else decides what the module computes.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def sam2_digest(module: nn.Module, configuration: Mapping[str, Any]) -> str:
    """Hash a SAM2: its weights as `weights_digest` does, and its configuration, much of which no tensor shows.

    Args:
        module: With the weights.
        configuration: As transformers' `Sam2Config.to_dict` gives it.
    """
    return weights_digest(module, json.dumps(_settings_in(configuration), sort_keys=True, default=str))


def _settings_in(configuration: Any) -> Any:
    if not isinstance(configuration, Mapping):
        return configuration
    return {str(name): _settings_in(value) for name, value in configuration.items() if name not in _OF_THE_FILE}
