"""What a weights file is: its layout, its architecture, whose it is, and whether its numbers are numbers."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.errors import WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.architecture import candidate_encoders, describe_architecture
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor, WeightsFile, state_of
from no_time_to_train.weights.layouts.base import Drop
from no_time_to_train.weights.layouts.dino import find_rule
from no_time_to_train.weights.layouts.sam2 import (
    hiera_shape,
    image_part_of_transformers,
    meta_sam2_to_transformers,
    sam2_layout,
    video_only,
)
from no_time_to_train.weights.source import source_of

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What `inspect_weights` found.

    Attributes:
        path: As it was named.
        container: What kind of files hold the tensors.
        files: The files that hold tensors, with their sizes in bytes.
        layout: Name of the layout.
        description: The architecture in a few words.
        encoder: The registry entry that it is; None for a SAM2, and for an encoder that is in no entry.
        also: Other registry entries of the same architecture, which tensors cannot tell apart.
        architecture: Of an encoder.
        dtypes: Numbers of parameters by dtype, as stored.
        num_tensors: Stored tensors.
        num_parameters: Their elements.
        dropped: Stored tensors that loading leaves out, each with its reason.
        sha256: Of each file; None if only headers were read.
        not_finite: Tensors that hold NaN or infinities; None if only headers were read.
    """

    path: Path
    container: str
    files: Mapping[str, int]
    layout: str
    description: str
    encoder: str | None
    also: tuple[str, ...]
    architecture: Architecture | None
    dtypes: Mapping[str, int]
    num_tensors: int
    num_parameters: int
    dropped: Mapping[str, str]
    sha256: Mapping[str, str] | None = None
    not_finite: tuple[str, ...] | None = None

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self) | {"path": str(self.path)}, indent=2)

    def as_text(self) -> str:
        """Return the report in a few lines."""
        alike = f" (or {', '.join(self.also)}: the same architecture)" if self.also else ""
        total = sum(self.files.values())
        dtypes = ", ".join(f"{count:,} {name}" for name, count in self.dtypes.items())
        unnamed = "in no registry entry"
        if self.architecture is not None:
            unnamed += f"; name the encoder by its path: --encoder {self.path}"
        lines = [
            f"{self.path}: {self.layout}, {self.container}",
            f"is            {self.encoder or unnamed}{alike}",
            f"architecture  {self.description}",
            f"tensors       {self.num_tensors}, {self.num_parameters:,} parameters: {dtypes}",
            f"files         {', '.join(self.files)}, {total:,} bytes",
        ]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.dropped.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"left out      {len(names)} ({names[0]}, ...): {reason}" for reason, names in reasons.items()]
        if self.sha256 is not None:
            lines += [f"sha256        {digest}  {name}" for name, digest in self.sha256.items()]
        if self.not_finite is not None:
            shown = ", ".join(self.not_finite[:_SHOWN])
            lines.append(f"NaN or Inf    {f'{len(self.not_finite)} tensors: {shown}' if self.not_finite else 'none'}")
        return "\n".join(lines)


def inspect_weights(path: Path | str, *, headers_only: bool = False) -> WeightsReport:
    """Describe a weights file or folder, by its tensors and never by its name.

    Args:
        path: A file or a Hugging Face folder, of an encoder or of SAM2, in any layout that loads.
        headers_only: Read names, shapes and dtypes alone, which takes no time however large the file is; without it
            every byte is read, for the hash and for NaN and infinities.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: The file is damaged, or in no known layout.
    """
    path = Path(path)
    stored = open_weights(path, verify=not headers_only)
    read = [FileRange(file, 0, 0, state_of(file)) for file in stored.files]
    tensors = stored.tensors
    found = _as_sam2(tensors, path) or _as_encoder(stored, path)
    counts = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    dtypes: dict[str, int] = {}
    for name, tensor in tensors.items():
        dtypes[tensor.dtype.name] = dtypes.get(tensor.dtype.name, 0) + counts[name]
    contents: dict[str, Any] = {}
    if not headers_only:
        contents["sha256"] = {file.name: sha256_of(file) for file in stored.files}
        contents["not_finite"] = tuple(name for name, tensor in tensors.items() if not tensor.is_finite())
    for whole in read:
        whole.check_unchanged()
    return WeightsReport(
        path=path,
        container=stored.container,
        files={file.name: file.stat().st_size for file in stored.files},
        dtypes=dtypes,
        num_tensors=len(tensors),
        num_parameters=sum(counts.values()),
        **found,
        **contents,
    )


def sha256_of(file: Path) -> str:
    """Return the hash of a file in hex, read in parts.

    Raises:
        WeightsNotFoundError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsNotFoundError(
            f"cannot read {file}: {error}", remedy="check the path and its permissions"
        ) from error


def _as_encoder(file: WeightsFile, path: Path) -> dict[str, Any]:
    source = source_of(file, path)
    fitting = [entry.name for entry in candidate_encoders(source.architecture)]
    rules = ((name, find_rule(name, source.layout)[1]) for name in file.tensors)
    return {
        "layout": source.layout.name,
        "description": describe_architecture(source.architecture),
        "encoder": fitting[0] if fitting else None,
        "also": tuple(fitting[1:]),
        "architecture": source.architecture,
        "dropped": {name: rule.reason for name, rule in rules if isinstance(rule, Drop)},
    }


def _as_sam2(raw: Mapping[str, StoredTensor], path: Path) -> dict[str, Any] | None:
    """Describe a SAM2; None if it is none."""
    try:
        kind = sam2_layout(raw, source=str(path))
    except WeightsFormatError:
        return None
    if kind == "meta":
        tensors = meta_sam2_to_transformers(raw, source=str(path))
    else:
        tensors = image_part_of_transformers(raw)
    shape = hiera_shape(tensors)
    return {
        "layout": "Meta SAM2" if kind == "meta" else "transformers SAM2",
        "description": "of another SAM2"
        if shape is None
        else f"Hiera of width {shape.embed_dim}, blocks {shape.stages}",
        "encoder": None,
        "also": (),
        "architecture": None,
        "dropped": video_only(raw),
    }
