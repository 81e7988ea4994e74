"""What a fetched folder holds, recorded beside it, and whether it still does."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.errors import (
    ChecksumMismatchError,
    LocalEntryNotFoundError,
    NoTimeToTrainError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.weights.formats.json_files import read_object
from no_time_to_train.weights.formats.reader import find_weights_file
from no_time_to_train.weights.inspect import WeightsReport, inspect_weights, sha256_of

MANIFEST = ".ntt-manifest.json"
_AGAIN = "fetch it again: ntt fetch, or dinov3-fetcher"
_LONGEST_NAME = 255  # bytes that file systems take


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was fetched into a folder.

    Attributes:
        kind: `hub`, `timm` or `url`.
        source: The repository's id, or the link without its secrets.
        revision: The commit, or what the server calls its version of the file.
        encoder: The registry entry, where it is known.
        fetched: When, in UTC, as ISO 8601.
        files: Size in bytes and sha256 of each file, by name.
    """

    kind: str
    source: str
    revision: str
    encoder: str | None
    fetched: str
    files: Mapping[str, Mapping[str, Any]]

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_text_atomic(folder / MANIFEST, json.dumps(asdict(self), indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None where it has none.

    Raises:
        LocalEntryNotFoundError: It is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = Manifest(**read_object(path))
        texts = (manifest.kind, manifest.source, manifest.revision, manifest.fetched, manifest.encoder or "")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(texts)
        for name, entry in manifest.files.items():
            is_name = Path(name).name == name and len(os.fsencode(name)) <= _LONGEST_NAME
            if not is_name or not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                raise ValueError(name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LocalEntryNotFoundError(f"{path} is not a complete manifest", remedy=_AGAIN) from error
    return manifest


def check_folder(folder: Path, *, deep: bool = False) -> WeightsReport:
    """Check that a folder holds an encoder's weights, whole.

    Present and not empty, of the recorded length, headers that fit the files, an architecture that fits `config.json`.

    Args:
        folder: What was fetched, by this package or by other means.
        deep: Read every byte too, and compare with the recorded hashes.

    Returns:
        What the weights are.

    Raises:
        LocalEntryNotFoundError: A file is missing, empty, cut off, or contradicts another.
        ChecksumMismatchError: A file has not the recorded hash.
    """
    if not folder.is_dir():
        raise LocalEntryNotFoundError(f"there is no folder {folder}", remedy=_AGAIN)
    manifest = read_manifest(folder)
    if manifest is not None:
        _check_recorded(folder, manifest)
    _check_present(folder, manifest)
    try:
        report = inspect_weights(folder, headers_only=True)
    except (WeightsFormatError, WeightsNotFoundError) as error:
        raise LocalEntryNotFoundError(error.message, remedy=_AGAIN) from error
    if report.architecture is None:
        raise LocalEntryNotFoundError(f"{folder} holds {report.layout}, expected an encoder", remedy=_AGAIN)
    _check_config(folder, report.architecture)
    added = sorted(set(report.files) - set(manifest.files)) if manifest is not None else []
    if added:
        raise LocalEntryNotFoundError(
            f"{folder} holds weights that were not fetched into it: {', '.join(added)}",
            remedy=f"remove them, or {_AGAIN}",
        )
    if deep:
        _check_hashes(folder, manifest)
    return report


def is_valid(folder: Path, *, deep: bool = False) -> bool:
    """Return whether `check_folder` finds nothing wrong."""
    try:
        check_folder(folder, deep=deep)
    except NoTimeToTrainError:
        return False
    return True


def _check_recorded(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise LocalEntryNotFoundError(f"{folder} lacks {name}, which was fetched into it", remedy=_AGAIN)
        size = path.stat().st_size
        if size != entry["size"]:
            raise LocalEntryNotFoundError(
                f"{path} has {size:,} bytes, expected the {entry['size']:,} that were fetched", remedy=_AGAIN
            )


def _check_present(folder: Path, manifest: Manifest | None) -> None:
    try:
        find_weights_file(folder)
    except WeightsNotFoundError as error:
        raise LocalEntryNotFoundError(error.message, remedy=_AGAIN) from error
    needed = {None: ("config.json", "preprocessor_config.json"), "timm": ("config.json",), "url": ()}.get(
        manifest.kind if manifest else None, ("config.json", "preprocessor_config.json")
    )
    for name in needed:
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            state = "is empty" if path.is_file() else "is missing"
            raise LocalEntryNotFoundError(f"{path} {state}", remedy=_AGAIN)
        if manifest is not None and name not in manifest.files:
            raise LocalEntryNotFoundError(f"{path} is not in the manifest beside it", remedy=_AGAIN)
        _object_in(path)


def _object_in(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except WeightsFormatError as error:
        raise LocalEntryNotFoundError(error.message, remedy=_AGAIN) from error


def _check_config(folder: Path, found: Architecture) -> None:
    """Compare what a config.json says of the sizes with what the tensors show."""
    path = folder / "config.json"
    config = _object_in(path) if path.is_file() else {}
    shown: dict[str, Any] = {
        "hidden_size": found.embed_dim,
        "num_features": found.embed_dim,  # timm's
        "num_hidden_layers": found.depth,
        "num_register_tokens": found.num_storage_tokens,
        "patch_size": found.patch_size,
        "hidden_sizes": list(found.stage_dims),
        "depths": list(found.stage_depths),
    }
    if found.family == "dinov3_vit":
        shown |= {"intermediate_size": found.ffn_dim, "use_gated_mlp": found.ffn == "swiglu"}
    if found.family == "dinov3_convnext":
        shown = {name: shown[name] for name in ("hidden_sizes", "depths", "num_features")}
    wrong = [
        f"{name} {config[name]} for {value}"
        for name, value in shown.items()
        if name in config and config[name] != value
    ]
    if wrong:
        raise LocalEntryNotFoundError(
            f"{path} is of another model than the weights beside it: it says {', '.join(wrong)}", remedy=_AGAIN
        )


def _check_hashes(folder: Path, manifest: Manifest | None) -> None:
    if manifest is None:
        raise LocalEntryNotFoundError(
            f"{folder} has no {MANIFEST}, so there are no hashes to compare with",
            remedy="fetch it with ntt fetch, or check it without --deep",
        )
    for name, entry in manifest.files.items():
        digest = sha256_of(folder / name)
        if digest != entry["sha256"]:
            raise ChecksumMismatchError(
                f"{folder / name} has the sha256 {digest}, expected {entry['sha256']} as fetched",
                remedy="remove it and fetch it again: the file was changed or the disk is failing",
            )
