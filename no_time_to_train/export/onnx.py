"""`ntt export`: an encoder as an ONNX file bound to its weights.

The graph is traced without weights, tidied, and bound to the byte ranges of the safetensors file beside which it will
lie; see docs/export.md and ADR 7.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import onnx
import onnx_ir as ir

from no_time_to_train import __version__
from no_time_to_train.configs.encoders import ENCODER_CONFIGS
from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.bind import bind_weights
from no_time_to_train.export.places import Place, check_replaceable, clone_weights, place_of, require_own_export
from no_time_to_train.export.precision import half_weights, int8_weights, to_half, to_int8
from no_time_to_train.export.tidy import simplify
from no_time_to_train.export.trace import trace_encoder
from no_time_to_train.export.verify import Drift, check_drift, measure_drift
from no_time_to_train.io.atomic import atomic_folder, atomic_path
from no_time_to_train.jax_models.load import abstract_encoder, check_encoder, fill_encoder, named_weights
from no_time_to_train.runtime.onnx_session import (
    IDENTITY,
    MODEL_FILE,
    NEEDED_RUNTIME,
    WEIGHTS_HASHES,
    digest_of,
    has_room_for,
    hash_of_header,
    read_onnx_file,
)
from no_time_to_train.weights.equinox_source import EquinoxSource, read_equinox_source
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor
from no_time_to_train.weights.formats.writer import write_safetensors
from no_time_to_train.weights.hashes import cached_sha256, content_hash
from no_time_to_train.weights.license import copy_license_notice

log = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "int8"]
Opset = Literal[23, 17]
_LARGEST = 1 << 20
_TRIED_PIXELS = 1 << 24
_WEIGHTS_FILE = "weights.safetensors"
_COPIED_WEIGHTS = f"{MODEL_FILE}.data"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What kind of file an export writes; see `export_onnx`."""

    image_size: tuple[int, int] | None = None
    batch_size: int | None = None
    opset: int = 23
    precision: Precision = "fp32"
    copy_weights: bool = False

    def __post_init__(self) -> None:
        if self.opset not in get_args(Opset):
            raise ConfigError(f"there is no export to opset {self.opset}", remedy="use 23, or 17 for older runtimes")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"there is no precision {self.precision!r}", remedy=f"use one of {', '.join(get_args(Precision))}"
            )
        size = self.image_size
        if size is not None and (len(size) != 2 or not all(0 < side <= _LARGEST for side in size)):
            raise ConfigError(f"{size} is not a height and a width in pixels", remedy="use dynamic, or such as 224x224")
        if self.batch_size is not None and not 0 < self.batch_size <= _LARGEST:
            raise ConfigError(f"a batch of {self.batch_size} images is none", remedy="use dynamic, or 1 or more")

    @property
    def needed_runtime(self) -> str:
        """The oldest ONNX Runtime that opens the file and computes it right.

        Measured on the CPU. Below 1.25 its operator `Attention` accumulates in fp16 where the inputs are fp16.
        """
        if self.opset < 23:
            return "1.20"
        return "1.25" if self.precision == "fp16" else "1.23"


def export_onnx(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    *,
    image_size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    batch_size: int | Literal["dynamic"] = "dynamic",
    opset: int = 23,
    precision: Precision = "fp32",
    copy_weights: bool = False,
    verify: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an encoder as ONNX: `model.onnx`, its weights, `config.json`, `preprocessor_config.json`, the licence.

    The file takes `pixel_values` (batch, 3, height, width), float32, RGB normalised by the encoder's mean and standard
    deviation, and gives `last_hidden_state` (batch, tokens, D), after the final norm: the CLS token, the storage
    tokens, the patches row by row (a ConvNeXt: the pooled features, then the pixels of the feature map), and
    `pooler_output` (batch, D), which is the first token. It is compared with the Equinox model before it is put in
    place.

    Args:
        name_or_path: A registry name; or a weights file or folder of any layout, or a Lightning checkpoint.
        weights: A file or folder that must hold the named encoder.
        output: A folder. If None and the weights are `model.safetensors` of a Hugging Face folder, the files go there,
            and no byte of the weights is copied; else a folder beside the weights is made. A folder that an export made
            is replaced.
        image_size: Height and width in pixels, or any.
        batch_size: Images at a time, or any.
        opset: 23 uses the operators `Attention` and `RotaryEmbedding`; 17, for older runtimes, does without.
        precision: fp16 holds linear layers and attention in fp16; int8 quantises the linear layers, activations as the
            graph runs.
        copy_weights: Write them as one file of ordinary external data, for tools that read no other. At fp32 they are
            written in float32 then, whatever they are stored in, and no operator casts them.
        verify: Whether to compare the file with the Equinox model; left out where the weights don't fit in memory.
        metadata: What the file says of itself beside the encoder's own.

    Returns:
        The folder.

    Raises:
        UnknownEncoderError: The encoder is not known.
        WeightsNotFoundError: There are no weights.
        WeightsFormatError: They are damaged, or of an encoder that has no Equinox model.
        ShapeMismatchError: They are of another encoder.
        ImageSizeError: The encoder does not take that size.
        ConfigError: There is no such opset or precision, or the encoder is given as an object.
        OutputError: The folder holds something else, or cannot be written.
        ExportError: The file drifts from the Equinox model; nothing was left.
    """
    options = ExportOptions(
        image_size=None if image_size == "dynamic" else image_size,
        batch_size=None if batch_size == "dynamic" else batch_size,
        opset=opset,
        precision=precision,
        copy_weights=copy_weights,
    )
    if not isinstance(name_or_path, (str, Path)):
        raise ConfigError(
            f"an encoder to export is named by a text or a path, got {type(name_or_path).__name__}",
            remedy="give a registry name such as dinov3_small, or the weights file or folder that it was built from",
        )
    entry, path = named_weights(name_or_path, weights)
    # Links to folders are not an obstacle; those to files are told from files later on.
    path = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    source = read_equinox_source(path)
    check_encoder(entry, source)
    if entry is not None:
        source = replace(source, entry=entry)
    if options.image_size is not None:
        check_image_size(*options.image_size, source.entry)
    place = place_of(source.weights, None if output is None else Path(output), options.precision, copy=copy_weights)
    with ThreadPoolExecutor(1) as pool:
        job = _Job(source, place, options, dict(metadata or {}), pool.submit(_hashes, place), verify)
        return _beside_the_weights(job) if place.in_place else _in_a_folder(job)


@dataclass(frozen=True)
class _Job:
    source: EquinoxSource
    place: Place
    options: ExportOptions
    metadata: dict[str, str]
    hashes: Future[str]
    verify: bool


def _beside_the_weights(job: _Job) -> Path:
    folder = job.place.output
    require_own_export(folder / MODEL_FILE)
    with atomic_path(folder / MODEL_FILE) as temporary:
        _write_model(job, temporary, job.source.leaves)
        job.place.write_settings(folder)
        copy_license_notice(folder, job.place.files[0], job.source.entry)
    return folder


def _in_a_folder(job: _Job) -> Path:
    output, options = job.place.output, job.options
    check_replaceable(output, job.place.files)
    with atomic_folder(output) as folder:
        job.place.write_settings(folder)
        copy_license_notice(folder, job.place.files[0], job.source.entry)
        if options.precision == "fp32" and not options.copy_weights:
            how = clone_weights(job.place, folder)
            log.info("weights of %s: %s", output, how)
            _write_model(job, folder / MODEL_FILE, read_equinox_source(folder).leaves)
        else:
            _write_model(job, folder / MODEL_FILE, job.source.leaves)
    return output


def _write_model(job: _Job, path: Path, leaves: Mapping[str, StoredTensor]) -> None:
    """Trace, bind, write and verify; `path` is not yet the place where anybody looks."""
    options, source, folder = job.options, job.source, path.parent
    model = trace_encoder(
        abstract_encoder(source),
        image_size=options.image_size,
        batch_size=options.batch_size,
        opset=options.opset,
    )
    if options.precision != "fp32":
        if options.precision == "fp16":
            weights = half_weights(leaves, to_half(model))
        else:
            weights = int8_weights(leaves, to_int8(model))
        simplify(model)
        used = {value.name for value in model.graph.inputs}
        write_safetensors(folder / _WEIGHTS_FILE, {name: weights[name] for name in weights if name in used}, {})
        leaves = open_weights(folder / _WEIGHTS_FILE).tensors
    if options.copy_weights:
        bind_weights(model, leaves, None, as_computed=options.precision == "fp32")
    else:
        bind_weights(model, leaves, folder)
    model.metadata_props.update(_metadata(job))
    if not options.copy_weights:
        model.metadata_props["weights_headers"] = json.dumps(_headers(leaves))
    model.producer_name, model.producer_version = "no_time_to_train", __version__
    model.graph.name = source.entry.name
    if options.copy_weights:
        ir.save(model, path, external_data=_COPIED_WEIGHTS)
        (folder / _WEIGHTS_FILE).unlink(missing_ok=True)
    else:
        ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    drift = _verified(job, path)
    hashes = {file.name: content_hash(file) for file in read_onnx_file(path).weights}
    said = {WEIGHTS_HASHES: json.dumps(hashes), "verified": drift if isinstance(drift, str) else _as_json(drift)}
    model = onnx.load(path, load_external_data=False)
    said |= {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, said)
    if options.precision == "fp32" and isinstance(drift, Drift):
        onnx.helper.set_model_props(model, said | {IDENTITY: _identity(job, path, digest_of(model))})
    for piece in _files_of(job.source.leaves).values():
        # The graph, the comparison and the hashes are of the weights as they were at first.
        piece.check_unchanged()
    path.write_bytes(model.SerializeToString(deterministic=True))


def _identity(job: _Job, path: Path, digest: str) -> str:
    """Say which torch encoder a file is the same as, and by which hashes that can be seen to hold still."""
    from no_time_to_train.encoders.torch_encoder import encoder_from_source  # and transformers

    entry = ENCODER_CONFIGS.get(job.source.entry.name, job.source.entry)
    encoder = encoder_from_source(job.source.weights, entry)
    hashes = {file.name: cached_sha256(file) for file in read_onnx_file(path).weights}
    return json.dumps({"fingerprint": encoder.fingerprint, "weights": hashes, "file": digest})


def _verified(job: _Job, path: Path) -> Drift | str:
    """Compare the file with the Equinox model.

    Returns:
        How they differ, or why they were not compared.

    Raises:
        ExportError: They drift apart.
    """
    if not job.verify:
        return "no"
    num_bytes = 4 * sum(tensor.num_bytes // tensor.dtype.itemsize for tensor in job.source.leaves.values())
    if not has_room_for(2 * num_bytes):
        log.warning("not verified: two copies of the weights don't fit in memory")
        return "no: the weights don't fit in memory twice"
    if max(batch * height * width for batch, _, height, width in _shapes(job)) > _TRIED_PIXELS:
        return "no: its images are too large to be tried"
    drift = measure_drift(read_onnx_file(path), fill_encoder(job.source), _shapes(job))
    check_drift(drift, job.options.precision)
    return drift


def _shapes(job: _Job) -> list[tuple[int, int, int, int]]:
    """Return what to try a file on: two sizes that are not square alike, where it takes any."""
    patch, options = job.source.architecture.patch_size, job.options
    # A ConvNeXt's patch is its total stride, and a few of those say as much as many small patches.
    unit = patch if job.source.architecture.family == "dinov3_convnext" else 2 * patch
    sizes = [(3 * unit, 3 * unit), (2 * unit, 5 * unit)] if options.image_size is None else [options.image_size]
    batches = [1, 2] if options.batch_size is None else [options.batch_size] * 2
    return [(batch, 3, *sizes[index % len(sizes)]) for index, batch in enumerate(batches)]


def _as_json(drift: Drift) -> str:
    return json.dumps(
        {
            "largest_difference": drift.largest,
            "least_token_cosine": drift.least_cosine,
            "mean_token_cosine": drift.mean_cosine,
            "shapes": drift.shapes,
        }
    )


def _metadata(job: _Job) -> dict[str, str]:
    entry, architecture, options = job.source.entry, job.source.architecture, job.options
    height_width = options.image_size
    return {
        **job.metadata,
        "encoder": entry.name,
        "config": json.dumps(asdict(entry)),
        "family": architecture.family,
        "embed_dim": str(architecture.embed_dim),
        "patch_size": str(architecture.patch_size),
        "num_storage_tokens": str(architecture.num_storage_tokens),
        "depth": str(architecture.depth),
        "image_mean": json.dumps(entry.image_mean),
        "image_std": json.dumps(entry.image_std),
        "license": entry.license,
        "image_size": "dynamic" if height_width is None else f"{height_width[0]}x{height_width[1]}",
        "batch_size": "dynamic" if options.batch_size is None else str(options.batch_size),
        "precision": options.precision,
        "opset": str(options.opset),
        NEEDED_RUNTIME: options.needed_runtime,
        "weights": "beside" if job.place.in_place else "own",
        "source": job.hashes.result(),
        "versions": json.dumps(
            {"no_time_to_train": __version__}
            | {name: version(name) for name in ("jax", "jax2onnx", "onnx", "onnxruntime")}
        ),
    }


def _headers(leaves: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return the hash of the header of each weights file, by its name."""
    return {file.name: hash_of_header(file) for file in sorted(_files_of(leaves))}


def _files_of(leaves: Mapping[str, StoredTensor]) -> dict[Path, FileRange]:
    """Return the files that hold leaves, each with a piece of it."""
    pieces = (piece for tensor in leaves.values() for piece in tensor.pieces)
    return {piece.file: piece for piece in pieces if isinstance(piece, FileRange)}


def _hashes(place: Place) -> str:
    return json.dumps({file.name: content_hash(file) for file in place.files})
