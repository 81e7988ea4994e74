"""`ntt convert`: an encoder's weights from any layout to a Hugging Face folder, Meta's file, or an Equinox file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import OutputError, WeightsFormatError
from no_time_to_train.io.atomic import atomic_folder, is_taken
from no_time_to_train.weights.equinox_source import periods_of, read_equinox_source, rope_periods
from no_time_to_train.weights.formats.reader import PICKLE_SUFFIXES, read_stored
from no_time_to_train.weights.formats.stored_tensor import locate_tensors
from no_time_to_train.weights.formats.writer import write_equinox, write_pickle, write_safetensors
from no_time_to_train.weights.hf_config import CONFIG, PREPROCESSOR, common_dtype, preprocessor_of, write_json
from no_time_to_train.weights.identify import entry_of
from no_time_to_train.weights.inspect import sha256_of
from no_time_to_train.weights.layouts.dino import META_DINOV2, META_DINOV3_CONVNEXT, META_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import hub_tensors, meta_tensors, transformers_tensors
from no_time_to_train.weights.license import carry_notice
from no_time_to_train.weights.load import ROPE_PERIODS, source_of
from no_time_to_train.weights.source import WeightsSource

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
    if to == "equinox":
        _write_equinox(source, destination)
        return destination
    if to == "meta":
        _write_meta(source, destination)
        return destination
    # Another process may have made it meanwhile.
    with atomic_folder(destination, replace=False) as folder:
        key_bias = write_weights(source, folder)
        found = source_of(read_stored(source, headers_only=True), source)
        write_config(folder, found, key_bias=key_bias)
        write_json(folder / PREPROCESSOR, preprocessor_of(entry_of(found)))
        carry_notice(folder, source, entry_of(found))
    return destination


def write_weights(source: Path, folder: Path) -> bool:
    """Write an encoder's weights of any layout as `model.safetensors`, by the names of the Hub's files.

    Args:
        source: A file or folder.
        folder: Where to.

    Returns:
        Whether keys have a bias that is not zero.
    """
    stored, located = read_stored(source, headers_only=True), locate_tensors(source)
    tensors = transformers_tensors(located, str(source))
    periods = periods_of(stored, located)
    metadata = {} if periods is None else {ROPE_PERIODS: _as_json(periods)}
    family = source_of(stored, source).architecture.family
    write_safetensors(folder / "model.safetensors", hub_tensors(tensors, family, str(source)), metadata)
    return any(name.endswith(".attention.k_proj.bias") for name in tensors)


def _write_meta(source: Path, destination: Path) -> None:
    if destination.suffix not in PICKLE_SUFFIXES:
        raise OutputError(f"{destination} is not the name of a file in Meta's layout", remedy="let it end in .pth")
    stored, located = read_stored(source, headers_only=True), locate_tensors(source)
    found = source_of(stored, source)
    _check_kept_by_meta(found)
    layout = _META[found.architecture.family]
    periods = periods_of(stored, located)
    if layout is META_DINOV3_VIT and periods is None:
        periods = rope_periods(entry_of(found), float(found.model_config.get("rope_theta", 100)))
    tensors = transformers_tensors(located, str(source))
    write_pickle(destination, meta_tensors(tensors, layout, rope_periods=periods, source=str(source)))


def _check_kept_by_meta(source: WeightsSource) -> None:
    """Refuse settings that Meta's layout has no place for: read again, the file would give other features.

    Raises:
        WeightsFormatError: There are some.
    """
    heads_are_told = source.architecture.family != "dinov2"  # of a DINOv3 ViT by the RoPE periods
    architecture = source.architecture if heads_are_told else replace(source.architecture, num_heads=None)
    bare = replace(source, architecture=architecture, model_config={}, preprocessor={})
    with torch.device("meta"):
        own = build_model(source.architecture, num_heads=entry_of(source).num_heads, settings=source.model_config)
        again = build_model(architecture, num_heads=entry_of(bare).num_heads)
    for name in ("layer_norm_eps", "hidden_act", "num_attention_heads"):
        given, taken = getattr(own.config, name, None), getattr(again.config, name, None)
        if given != taken:
            raise WeightsFormatError(
                f"{source.path} has the {name} {given}, for which Meta's layout has no place: it would be read as "
                f"{taken}",
                remedy="convert it to hf instead, or to equinox",
            )


def write_config(folder: Path, source: WeightsSource, *, key_bias: bool) -> None:
    """Write the `config.json` from which transformers builds an encoder.

    Args:
        folder: Where to.
        source: The weights; their values are not looked at.
        key_bias: Whether keys have a bias that is not zero.

    Raises:
        OutputError: The folder cannot be written to.
    """
    architecture = replace(source.architecture, key_bias=key_bias)
    with torch.device("meta"):
        model = build_model(architecture, num_heads=entry_of(source).num_heads, settings=source.model_config)
    stated = {"architectures": [type(model).__name__], "dtype": common_dtype(source.tensors.values())}
    write_json(folder / CONFIG, {**model.config.to_dict(), **stated})


def _as_json(periods: Tensor) -> str:
    dtype = str(periods.dtype).removeprefix("torch.")
    return json.dumps({"dtype": dtype, "values": periods.double().tolist()})


def _write_equinox(source: Path, destination: Path) -> None:
    if destination.suffix != ".eqx":
        raise OutputError(f"{destination} is not the name of an Equinox file", remedy="let it end in .eqx")
    found = read_equinox_source(source)
    files = read_stored(source, headers_only=True).files
    header = {**found.header(), "source": {file.name: sha256_of(file) for file in files}}
    write_equinox(destination, found.leaves, header)
