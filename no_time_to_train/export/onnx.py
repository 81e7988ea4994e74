"""`ntt export`: an encoder as an ONNX file bound to its weights.

The graph is traced without weights, tidied, and bound to the byte ranges of the safetensors file beside which it will
lie; see docs/export.md and ADR 7.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from no_time_to_train.configs.encoders import ENCODER_CONFIGS
from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.graph_file import (
    ExportOptions,
    Precision,
    common_metadata,
    files_of,
    record_check,
    write_graph,
)
from no_time_to_train.export.places import Place, check_replaceable, clone_weights, place_of, require_own_export
from no_time_to_train.export.sam2.files import export_sam2
from no_time_to_train.export.trace import trace_encoder
from no_time_to_train.export.verify import Drift, check_drift, measure_drift
from no_time_to_train.io.atomic import atomic_folder, atomic_path
from no_time_to_train.jax_models.load import abstract_encoder, check_encoder, fill_encoder, named_weights
from no_time_to_train.jax_models.sam2.load import is_sam2
from no_time_to_train.runtime.onnx_session import (
    IDENTITY,
    MODEL_FILE,
    digest_of,
    has_room_for,
    read_onnx_file,
)
from no_time_to_train.weights.equinox_source import EquinoxSource, read_equinox_source
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.hashes import cached_sha256, content_hash
from no_time_to_train.weights.license import copy_license_notice

log = logging.getLogger(__name__)

_TRIED_PIXELS = 1 << 24
_WEIGHTS_FILE = "weights.safetensors"


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

    A SAM2 becomes two files, `vision_encoder.onnx` and `prompt_encoder_mask_decoder.onnx`; see docs/export.md.

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
    if is_sam2(name_or_path, weights):
        return export_sam2(name_or_path, weights, output, options, verify=verify, metadata=dict(metadata or {}))
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
    options, source = job.options, job.source
    model = trace_encoder(
        abstract_encoder(source),
        image_size=options.image_size,
        batch_size=options.batch_size,
        opset=options.opset,
    )
    own = options.precision != "fp32"
    write_graph(
        model,
        path,
        leaves,
        options,
        _metadata(job),
        name=source.entry.name,
        weights_file=_WEIGHTS_FILE if own else None,
    )
    drift = _verified(job, path)
    checked = record_check(path, drift)
    if options.precision == "fp32" and isinstance(drift, Drift):
        said = {entry.key: entry.value for entry in checked.metadata_props}
        onnx.helper.set_model_props(checked, said | {IDENTITY: _identity(job, path, digest_of(checked))})
    for piece in files_of(job.source.leaves).values():
        # The graph, the comparison and the hashes are of the weights as they were at first.
        piece.check_unchanged()
    path.write_bytes(checked.SerializeToString(deterministic=True))


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


def _metadata(job: _Job) -> dict[str, str]:
    entry, architecture, options = job.source.entry, job.source.architecture, job.options
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
        **common_metadata(options, in_place=job.place.in_place, source=job.hashes.result()),
    }


def _hashes(place: Place) -> str:
    return json.dumps({file.name: content_hash(file) for file in place.files})
