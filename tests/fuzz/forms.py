"""Forms of files: a reader with its valid files, and safetensors files in parts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from tests.fuzz.mutation import Form, Parts


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        form: Of valid files.
        name: The file's name in its folder.
        read: Reads the file, and does with what came what its callers do.
        beside: Writes what lies beside the file in the folder.
    """

    form: Form
    name: str
    read: Callable[[Path], object]
    beside: Callable[[Path], object] = lambda folder: None


def the_whole(parts: Parts) -> bytes:
    (content,) = parts.values()
    return content


def behind_its_length(parts: Parts) -> bytes:
    header = parts["header.json"]
    return len(header).to_bytes(8, "little") + header + parts["data"]


def taken_apart(content: bytes) -> dict[str, bytes]:
    """Take a safetensors file apart."""
    end = 8 + int.from_bytes(content[:8], "little")
    return {"header.json": content[8:end], "data": content[end:]}


def packed_safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> dict[str, bytes]:
    return taken_apart(safetensors.torch.save(tensors, metadata))
