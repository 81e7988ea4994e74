"""The identity of weights."""

import hashlib

import torch
from torch import nn


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
