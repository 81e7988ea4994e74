"""A traced graph as a file: in the precision that was asked for, bound to its weights, with what it says of itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import onnx
import onnx_ir as ir

from no_time_to_train import __version__
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.bind import bind_weights
from no_time_to_train.export.precision import half_weights, int8_weights, to_half, to_int8
from no_time_to_train.export.tidy import simplify
from no_time_to_train.export.verify import Drift
from no_time_to_train.runtime.onnx_session import (
    NEEDED_RUNTIME,
    WEIGHTS_HASHES,
    WEIGHTS_HEADERS,
    hash_of_header,
    read_onnx_file,
)
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor
from no_time_to_train.weights.formats.writer import write_safetensors
from no_time_to_train.weights.hashes import content_hash

Precision = Literal["fp32", "fp16", "int8"]
Opset = Literal[23, 17]
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; see `export_onnx`."""

    image_size: tuple[int, int] | None = None
    batch_size: int | None = None
    opset: int = 23
    precision: Precision = "fp32"
    copy_weights: bool = False

    def __post_init__(self) -> None:
        if self.opset not in get_args(Opset):
            raise ConfigError(
                f"opset {self.opset} is not supported, expected 23 or 17", remedy="use 23, or 17 for older runtimes"
            )
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision {self.precision!r} is not supported", remedy=f"use one of {', '.join(get_args(Precision))}"
            )
        size = self.image_size
        if size is not None and (len(size) != 2 or not all(0 < side <= _LARGEST for side in size)):
            raise ConfigError(f"{size} is not a height and a width in pixels", remedy="use dynamic, or such as 224x224")
        if self.batch_size is not None and not 0 < self.batch_size <= _LARGEST:
            raise ConfigError(
                f"batch_size is {self.batch_size}, expected dynamic or 1 or more", remedy="use dynamic, or 1 or more"
            )

    @property
    def needed_runtime(self) -> str:
        """The oldest ONNX Runtime that opens the file and computes it right.

        Measured on the CPU. Below 1.25 its operator `Attention` accumulates in fp16 where the inputs are fp16.
        """
        if self.opset < 23:
            return "1.20"
        return "1.25" if self.precision == "fp16" else "1.23"


def write_graph(
    model: ir.Model,
    path: Path,
    leaves: Mapping[str, StoredTensor],
    options: ExportOptions,
    metadata: Mapping[str, str],
    *,
    name: str,
    weights_file: str | None = None,
) -> None:
    """Write a graph in the precision of the options, and check it.

    Args:
        model: As `trace` gave it; changed.
        path: The file.
        leaves: The weights, by the names of the graph's inputs. Without `weights_file` and without copying they are in
            the file's folder.
        options: Of the export.
        metadata: What the file says of itself.
        name: Of the graph.
        weights_file: Write the weights that the graph uses into this safetensors file, next to it.
    """
    folder = path.parent
    if options.precision == "fp16":
        leaves = half_weights(leaves, to_half(model))
    elif options.precision == "int8":
        leaves = int8_weights(leaves, to_int8(model))
    if options.precision != "fp32":
        simplify(model)
    if weights_file is not None:
        used = {value.name for value in model.graph.inputs}
        write_safetensors(folder / weights_file, {name: leaves[name] for name in leaves if name in used}, {})
        leaves = open_weights(folder / weights_file).tensors
    if options.copy_weights:
        bind_weights(model, leaves, None, as_computed=options.precision == "fp32")
    else:
        bind_weights(model, leaves, folder)
    model.metadata_props.update(metadata)
    if not options.copy_weights:
        headers = {file.name: hash_of_header(file) for file in sorted(files_of(leaves))}
        model.metadata_props[WEIGHTS_HEADERS] = json.dumps(headers)
    model.producer_name, model.producer_version = "no_time_to_train", __version__
    model.graph.name = name
    if options.copy_weights:
        ir.save(model, path, external_data=f"{path.name}_data")
        if weights_file is not None:
            (folder / weights_file).unlink()
    else:
        ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def record_check(path: Path, drift: Drift | str) -> onnx.ModelProto:
    """Return a written file with what its check found, and with the hashes of its weights; it is not written again."""
    hashes = {file.name: content_hash(file) for file in read_onnx_file(path).weights}
    said = {WEIGHTS_HASHES: json.dumps(hashes), "verified": drift if isinstance(drift, str) else drift.as_json()}
    model = onnx.load(path, load_external_data=False)
    said |= {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, said)
    return model


def files_of(leaves: Mapping[str, StoredTensor]) -> dict[Path, FileRange]:
    """Return the files that hold leaves, each with a piece of it."""
    pieces = (piece for tensor in leaves.values() for piece in tensor.pieces)
    return {piece.file: piece for piece in pieces if isinstance(piece, FileRange)}


def common_metadata(options: ExportOptions, *, in_place: bool, source: str) -> dict[str, str]:
    """Return what every exported file says of itself.

    Args:
        options: Of the export.
        in_place: Whether the weights are those that the user named, where they were.
        source: The hashes of these.
    """
    size = options.image_size
    return {
        "image_size": "dynamic" if size is None else f"{size[0]}x{size[1]}",
        "batch_size": "dynamic" if options.batch_size is None else str(options.batch_size),
        "precision": options.precision,
        "opset": str(options.opset),
        NEEDED_RUNTIME: options.needed_runtime,
        "weights": "beside" if in_place else "own",
        "source": source,
        "versions": json.dumps(
            {"no_time_to_train": __version__}
            | {name: version(name) for name in ("jax", "jax2onnx", "onnx", "onnxruntime")}
        ),
    }
