"""The registry entry that a checkpoint is of."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeGuard

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, Architecture, EncoderSpec, resolve_encoder
from no_time_to_train.errors import (
    LocalEntryNotFoundError,
    ShapeMismatchError,
    UnknownEncoderError,
    WeightsFormatError,
)
from no_time_to_train.weights.architecture import candidate_encoders, describe_architecture, matches
from no_time_to_train.weights.formats.reader import SUFFIXES
from no_time_to_train.weights.hub.manifest import read_manifest
from no_time_to_train.weights.source import WeightsSource

# Before the folder of an exported encoder.
ONNX = "onnx:"


def identify_encoder(source: WeightsSource) -> EncoderSpec:
    """Find the registry entry of a checkpoint, or make one.

    What a fetched folder's manifest records goes first, since of two encoders with one architecture nothing else tells
    which it is; and its normalisation, since the Hub's satellite folders state another. Otherwise the architecture
    decides, and a stated normalisation goes before the entry's.
    """
    architecture = source.architecture
    recorded = _recorded(source)
    if recorded is not None:
        return recorded
    fitting = candidate_encoders(architecture)
    if fitting:
        entry = fitting[0]
    else:
        patch = architecture.patch_size
        entry = EncoderSpec(
            **asdict(replace(architecture, num_heads=num_heads_of(source))),
            name=f"{architecture.family}_{architecture.embed_dim}x{architecture.depth}",
            default_img_size=max(1, 592 // patch) * patch,
            license="unknown",
        )
    stated = stated_normalisation(source.preprocessor)
    return replace(entry, image_mean=stated[0], image_std=stated[1]) if stated else entry


def _recorded(source: WeightsSource) -> EncoderSpec | None:
    """Return the entry that a fetched folder's manifest records, if the weights are of its architecture."""
    try:
        manifest = read_manifest(source.path if source.path.is_dir() else source.path.parent)
    except LocalEntryNotFoundError:
        return None
    entry = ENCODER_CONFIGS.get(manifest.encoder) if manifest is not None and manifest.encoder else None
    return entry if entry is not None and matches(entry, source.architecture) else None


def num_heads_of(source: WeightsSource) -> int:
    """Return the attention heads: as the tensors tell, as the configuration states, or by the family's rule."""
    if source.architecture.num_heads is not None:
        return source.architecture.num_heads
    stated = source.model_config.get("num_attention_heads")
    # Heads of 64 are the rule in the whole DINO family but for the 7B, which the registry knows.
    return int(stated) if stated else max(1, math.ceil(source.architecture.embed_dim / 64))


def stated_normalisation(
    preprocessor: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Return the mean and standard deviation that a `preprocessor_config.json` states; None if it states none."""
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if mean is None and std is None:
        return None
    if not (_are_three_numbers(mean) and _are_three_numbers(std) and min(std) > 0):
        raise WeightsFormatError(
            f"the preprocessor states the mean {mean} and standard deviation {std}, expected three numbers each, "
            "deviations above 0",
            remedy="correct preprocessor_config.json, or fetch the folder again",
        )
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def _are_three_numbers(values: object) -> TypeGuard[list[float]]:
    return isinstance(values, list) and len(values) == 3 and all(map(_is_finite, values))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def architecture_mismatch_error(entry: EncoderSpec, path: Path, found: Architecture) -> ShapeMismatchError:
    """Make the error for a file that holds another encoder than the named one."""
    fitting = [other.name for other in ENCODER_CONFIGS.values() if matches(other, found)]
    held = f"the file is {' or '.join(fitting)}" if fitting else "the file is in no registry entry"
    remedy = f"set encoder_cfg.name to {fitting[0]}" if fitting else f"name the file itself, as --encoder {path}"
    return ShapeMismatchError(
        f"{path} does not hold {entry.name}: {held} ({describe_architecture(found)}, "
        f"expected {describe_architecture(entry)})",
        remedy=f"{remedy}, or give the weights of {entry.name}",
    )


def is_file_of_weights(name: str) -> bool:
    """Return whether an encoder is named by a weights file or folder, rather than by the registry or as ONNX.

    A registry name stays one where a folder of that name is in the working directory.
    """
    if name.startswith(ONNX):
        return False
    try:
        resolve_encoder(name)
    except UnknownEncoderError:
        return Path(name).suffix in SUFFIXES or Path(name).exists()
    return False
