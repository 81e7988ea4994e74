"""`ntt convert`: an encoder's weights from any layout to a Hugging Face folder, Meta's file, or an Equinox file."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from no_time_to_train.errors import OutputError, WeightsFormatError
from no_time_to_train.io.atomic import atomic_folder, is_taken
from no_time_to_train.weights.equinox_source import equinox_header, equinox_source_of
from no_time_to_train.weights.formats.reader import PICKLE_SUFFIXES
from no_time_to_train.weights.formats.stored_tensor import from_array
from no_time_to_train.weights.formats.writer import write_equinox, write_pickle, write_safetensors
from no_time_to_train.weights.hf_config import (
    CONFIG,
    PREPROCESSOR,
    common_dtype,
    default_settings,
    model_config,
    preprocessor_of,
    write_json,
)
from no_time_to_train.weights.identify import identify_encoder
from no_time_to_train.weights.inspect import sha256_of
from no_time_to_train.weights.layouts.dino import META_DINOV2, META_DINOV3_CONVNEXT, META_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import hub_tensors, meta_tensors
from no_time_to_train.weights.license import copy_license_notice
from no_time_to_train.weights.rope import ROPE_PERIODS, periods_as_json, rope_periods
from no_time_to_train.weights.source import WeightsSource, read_source

Target = Literal["hf", "meta", "equinox"]

_META = {"dinov3_vit": META_DINOV3_VIT, "dinov3_convnext": META_DINOV3_CONVNEXT, "dinov2": META_DINOV2}


def convert_weights(source: Path | str, destination: Path | str, to: Target) -> Path:
    """Write an encoder's weights in another layout, in the dtype in which they are stored.

    Bytes are copied from file to file, so that the memory does not grow with the weights. Features stay what they were:
    the RoPE periods that Meta stores go along, in a folder as the safetensors file's metadata.

    Args:
        source: What `build_encoder_from_checkpoint` reads.
        destination: A new or empty folder for `hf`; a new file for `meta` and `equinox`.
        to: `hf` is a folder that transformers' `AutoModel` opens; `meta` is a state dict by Meta's names (`.pth`);
            `equinox` holds the leaves of `no_time_to_train.jax_models` (`.eqx`).

    Returns:
        The destination.

    Raises:
        WeightsNotFoundError: There is no source.
        WeightsFormatError: The source is damaged, in no known layout, or the other has no place for it.
        OutputError: The destination is taken, or cannot be written.
    """
    source, destination = Path(source), Path(destination)
    taken = destination.exists() and not (destination.is_dir() and to == "hf" and not any(destination.iterdir()))
    if taken:
        raise is_taken(destination)
    wanted = {"meta": PICKLE_SUFFIXES, "equinox": (".eqx",)}.get(to)
    if wanted is not None and destination.suffix not in wanted:
        kind = "an Equinox file" if to == "equinox" else "a file in Meta's layout"
        raise OutputError(f"{destination} is not the name of {kind}", remedy=f"let it end in {wanted[0]}")
    weights = read_source(source)
    if to == "equinox":
        found = equinox_source_of(weights)
        hashes = {file.name: sha256_of(file) for file in weights.file.files}
        header = equinox_header(found.entry, found.architecture, found.config, periods_stored=found.periods_stored)
        write_equinox(destination, found.leaves, {**header, "source": hashes})
    elif to == "meta":
        _write_meta(weights, destination)
    else:
        entry = identify_encoder(weights)
        # Another process may have made it meanwhile.
        with atomic_folder(destination, replace=False) as folder:
            write_hub_weights(weights, folder)
            write_config(folder, weights, num_heads=entry.num_heads)
            write_json(folder / PREPROCESSOR, preprocessor_of(entry))
            copy_license_notice(folder, source, entry)
    return destination


def write_hub_weights(source: WeightsSource, folder: Path) -> None:
    """Write an encoder's weights as `model.safetensors`, by the names of the Hub's files.

    Raises:
        WeightsFormatError: Tensors are not of floating point, or the file changed meanwhile.
        OutputError: The folder cannot be written to.
    """
    tensors = hub_tensors(source.tensors, source.architecture.family, str(source.path))
    metadata = {} if source.rope_periods is None else {ROPE_PERIODS: periods_as_json(source.rope_periods)}
    write_safetensors(folder / "model.safetensors", tensors, metadata)


def write_config(folder: Path, source: WeightsSource, *, num_heads: int) -> None:
    """Write the `config.json` from which transformers builds an encoder.

    Args:
        folder: Where to.
        source: The weights.
        num_heads: Used where the architecture does not tell its heads.

    Raises:
        OutputError: The folder cannot be written to.
    """
    config = model_config(source.architecture, num_heads=num_heads, settings=source.model_config)
    write_json(folder / CONFIG, config | {"dtype": common_dtype(source.tensors.values())})


def _write_meta(source: WeightsSource, destination: Path) -> None:
    entry = identify_encoder(source)
    _check_kept_by_meta(source, entry.num_heads)
    layout, periods = _META[source.architecture.family], source.rope_periods
    if layout is META_DINOV3_VIT and periods is None:
        base = float(source.model_config.get("rope_theta", 100))
        periods = from_array(rope_periods(entry.embed_dim // entry.num_heads, base))
    write_pickle(destination, meta_tensors(source.tensors, layout, rope_periods=periods, source=str(source.path)))


def _check_kept_by_meta(source: WeightsSource, num_heads: int) -> None:
    """Refuse settings that Meta's layout has no place for: read again, the file would give other features.

    Raises:
        WeightsFormatError: There are some.
    """
    taken = default_settings(source.architecture)
    given = {name: source.model_config.get(name, value) for name, value in taken.items()}
    if source.architecture.family == "dinov2":  # of a DINOv3 ViT the RoPE periods tell the heads
        bare = replace(
            source, architecture=replace(source.architecture, num_heads=None), model_config={}, preprocessor={}
        )
        given["num_attention_heads"] = (
            num_heads if source.architecture.num_heads is None else source.architecture.num_heads
        )
        taken["num_attention_heads"] = identify_encoder(bare).num_heads
    for name, value in given.items():
        if value != taken[name]:
            raise WeightsFormatError(
                f"{source.path} has the {name} {value}, for which Meta's layout has no place: it would be read as "
                f"{taken[name]}",
                remedy="convert it to hf instead, or to equinox",
            )
