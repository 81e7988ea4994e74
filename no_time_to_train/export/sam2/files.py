"""SAM2 as two ONNX files bound to one file of weights: `vision_encoder.onnx`, `prompt_encoder_mask_decoder.onnx`."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD, SAM2_CONFIGS
from no_time_to_train.configs.sam2_releases import SAM2_FILES
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.graph_file import ExportOptions, common_metadata, files_of, record_check, write_graph
from no_time_to_train.export.places import check_replaceable, clone_files, output_folder, require_own_export
from no_time_to_train.export.sam2.trace import trace_image_encoder, trace_prompt_decoder
from no_time_to_train.export.sam2.verify import measure_image_drift, measure_prompt_drift
from no_time_to_train.export.verify import Drift, check_drift
from no_time_to_train.io.atomic import atomic_folder, atomic_path
from no_time_to_train.jax_models.sam2.load import Sam2Source, abstract_sam2, fill_sam2, read_sam2_source
from no_time_to_train.proposers.sam2.configs import to_transformers
from no_time_to_train.runtime.onnx_session import (
    IMAGE_ENCODER_FILE,
    PROMPT_DECODER_FILE,
    has_room_for,
    read_onnx_file,
)
from no_time_to_train.weights.formats.json_files import read_object
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.formats.writer import write_safetensors
from no_time_to_train.weights.hashes import content_hash
from no_time_to_train.weights.hf_config import CONFIG, PREPROCESSOR, common_dtype, preprocessor_config, write_json
from no_time_to_train.weights.license import SAM2_LICENSE, copy_sam2_notice

log = logging.getLogger(__name__)

# Sides in pixels up to which several images are tried at once: two of 1,024 take 4 GB.
_SMALL = 512
_PROCESSOR = "Sam2ImageProcessorFast"
# transformers.js finds by it what prepares images and prompts.
_PROCESSOR_CLASS = "Sam2Processor"


@dataclass(frozen=True)
class _Job:
    source: Sam2Source
    options: ExportOptions
    metadata: Mapping[str, str]
    verify: bool


def export_sam2(
    name_or_path: str | Path,
    weights: str | Path | None,
    output: str | Path | None,
    options: ExportOptions,
    *,
    verify: bool,
    metadata: Mapping[str, str],
) -> Path:
    """Write a SAM2 as ONNX; see `export_onnx`, whose arguments and errors these are.

    Raises:
        ConfigError: Another image size than the model's is asked for.
    """
    source = read_sam2_source(name_or_path, weights)
    side = source.architecture.image_size
    if options.image_size not in (None, (side, side)):
        raise ConfigError(
            f"a SAM2 of {side} pixels does not take images of {options.image_size}",
            remedy=f"leave --image-size out: its images are {side}x{side}",
        )
    options = replace(options, image_size=(side, side))
    folder, in_place = output_folder(
        source.path,
        source.file.files,
        None if output is None else Path(output),
        options.precision,
        hub=source.layout == "transformers",
        copy=options.copy_weights,
    )
    hashes = json.dumps({file.name: content_hash(file) for file in source.file.files})
    said = {**metadata, **_metadata(source), **common_metadata(options, in_place=in_place, source=hashes)}
    job = _Job(source, options, said, verify)
    if in_place:
        _beside_the_weights(job, folder)
    else:
        _in_a_folder(job, folder)
    return folder


def _beside_the_weights(job: _Job, folder: Path) -> None:
    require_own_export(folder / IMAGE_ENCODER_FILE)
    require_own_export(folder / PROMPT_DECODER_FILE)
    with atomic_path(folder / IMAGE_ENCODER_FILE) as images, atomic_path(folder / PROMPT_DECODER_FILE) as prompts:
        _write_graphs(job, images, prompts, job.source.leaves)
        _write_settings(job.source, folder)


def _in_a_folder(job: _Job, output: Path) -> None:
    source, options = job.source, job.options
    check_replaceable(output, source.file.files)
    with atomic_folder(output) as folder:
        _write_settings(source, folder)
        leaves = source.leaves
        if options.precision == "fp32" and not options.copy_weights:
            if source.layout == "transformers" and all(file.suffix == ".safetensors" for file in source.file.files):
                log.info("weights of %s: %s", output, clone_files(source.file.files, folder))
            else:
                write_safetensors(folder / "model.safetensors", source.tensors, {"format": "pt"})
            leaves = read_sam2_source(folder).leaves
        _write_graphs(job, folder / IMAGE_ENCODER_FILE, folder / PROMPT_DECODER_FILE, leaves)


def _write_graphs(job: _Job, images: Path, prompts: Path, leaves: Mapping[str, StoredTensor]) -> None:
    """Trace, bind, write and verify both; neither path is yet the place where anybody looks."""
    source, options = job.source, job.options
    model, name = abstract_sam2(source.architecture), job.metadata["encoder"]
    own = options.precision != "fp32"
    traced = trace_image_encoder(model, batch_size=options.batch_size, opset=options.opset)
    weights_file = f"{Path(IMAGE_ENCODER_FILE).stem}.safetensors" if own else None
    write_graph(traced, images, leaves, options, job.metadata, name=name, weights_file=weights_file)
    # Prompts are decoded in fp32: differences of large sums are taken.
    exact = replace(options, precision="fp32")
    said = {
        **job.metadata,
        **common_metadata(exact, in_place=job.metadata["weights"] != "own", source=job.metadata["source"]),
    }
    traced = trace_prompt_decoder(model, opset=options.opset)
    weights_file = f"{Path(PROMPT_DECODER_FILE).stem}.safetensors" if own else None
    write_graph(traced, prompts, leaves, exact, said, name=name, weights_file=weights_file)
    drifts = _verified(job, images, prompts)
    checked = [(path, record_check(path, drift)) for path, drift in zip((images, prompts), drifts, strict=True)]
    for piece in files_of(source.leaves).values():
        # The graphs, the comparison and the hashes are of the weights as they were at first.
        piece.check_unchanged()
    for path, graph in checked:
        path.write_bytes(graph.SerializeToString(deterministic=True))


def _verified(job: _Job, images: Path, prompts: Path) -> tuple[Drift | str, Drift | str]:
    """Compare both files with the Equinox model.

    Returns:
        How they differ, or why they were not compared.

    Raises:
        ExportError: They drift apart.
    """
    if not job.verify:
        return "no", "no"
    num_bytes = 4 * sum(tensor.num_bytes // tensor.dtype.itemsize for tensor in job.source.leaves.values())
    if not has_room_for(2 * num_bytes):
        log.warning("not verified: two copies of the weights don't fit in memory")
        why = "no: the weights don't fit in memory twice"
        return why, why
    model = fill_sam2(job.source)
    few = job.source.architecture.image_size <= _SMALL
    batches = ([1, 2] if few else [1]) if job.options.batch_size is None else [job.options.batch_size]
    drifts = (
        measure_image_drift(read_onnx_file(images), model, batches),
        measure_prompt_drift(read_onnx_file(prompts), model),
    )
    check_drift(drifts[0], job.options.precision)
    check_drift(drifts[1], "fp32")
    return drifts


def _metadata(source: Sam2Source) -> dict[str, str]:
    architecture = source.architecture
    return {
        "encoder": released_name(source) or source.path.resolve().name,
        "family": "sam2",
        "embed_dim": str(architecture.dim),
        "image_mean": json.dumps(IMAGE_MEAN),
        "image_std": json.dumps(IMAGE_STD),
        "license": SAM2_LICENSE if released_name(source) else "",
    }


def released_name(source: Sam2Source) -> str | None:
    """Return the name of the released model of these sizes, or None."""
    fitting = [
        file.name for file in SAM2_FILES.values() if SAM2_CONFIGS[file.config].shape == source.architecture.shape
    ]
    named = [name for name in fitting if name == source.path.stem]
    return next(iter(named or fitting), None)


def _write_settings(source: Sam2Source, folder: Path) -> None:
    """Put `config.json`, `preprocessor_config.json` and the licence notice into a folder that lacks them.

    Raises:
        OutputError: It cannot be written to.
    """
    weights_folder = source.file.files[0].parent
    released = released_name(source)
    for name in (CONFIG, PREPROCESSOR):
        if (folder / name).exists():
            continue
        if (source.layout == "transformers" or released is None) and (weights_folder / name).is_file():
            stated = read_object(weights_folder / name)
            write_json(folder / name, stated | ({} if name == CONFIG else {"processor_class": _PROCESSOR_CLASS}))
        elif name == CONFIG:
            config = to_transformers(next(c for c in SAM2_CONFIGS.values() if c.shape == source.architecture.shape))
            stated = {"architectures": ["Sam2Model"], "dtype": common_dtype(source.tensors.values())}
            write_json(folder / name, {**config.to_dict(), **stated})
        else:
            side = source.architecture.image_size
            settings = preprocessor_config(side, IMAGE_MEAN, IMAGE_STD, processor=_PROCESSOR)
            write_json(folder / name, {**settings, "processor_class": _PROCESSOR_CLASS})
    copy_sam2_notice(folder, source.file.files[0], released=released is not None)
