"""A bundle: one folder with the ONNX files of both networks, the settings, and a memory of references if there is one.

`ntt export-pipeline` writes it; `ntt predict --bundle` and `Segmenter.from_bundle` run it.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from no_time_to_train.configs import shipped
from no_time_to_train.configs.parsing import settings_of
from no_time_to_train.configs.recommended import SHIPPED, pair_at_hand, said_of_default
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.io.strict_yaml import read_yaml

log = logging.getLogger(__name__)

SETTINGS_FILE, MEMORY_FILE = "pipeline.yaml", "memory.safetensors"
ENCODER_FOLDER, SAM2_FOLDER = "encoder", "sam2"
FORMAT = "no_time_to_train bundle 1"


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        folder: Where it is.
        settings: Of the pipeline, by the names of `MatcherConfig`; folders of the networks with the bundle's before.
        memory: The file of its references; None without.
    """

    folder: Path
    settings: Mapping[str, Any]
    memory: Path | None


def read_bundle(folder: Path | str) -> Bundle:
    """Read a bundle's settings; the networks are not opened.

    Args:
        folder: As `ntt export-pipeline` wrote it; or a name of one that the project ships, such as `quickstart`.

    Raises:
        DataNotFoundError: There is no such folder.
        ConfigError: It is not a bundle, or of another version.
    """
    place = Path(folder)
    if not place.exists():
        place = shipped_bundle(str(folder)) or place
    file = place / SETTINGS_FILE
    if not file.is_file():
        raise DataNotFoundError(
            f"there is no bundle in {folder}: it has no {SETTINGS_FILE}",
            remedy="name a folder that ntt export-pipeline wrote, or quickstart",
        )
    document = read_yaml(file)
    if document.get("format") != FORMAT:
        raise ConfigError(
            f"{file} has the format {document.get('format')!r:.60}, expected {FORMAT!r}",
            remedy="write the bundle again: ntt export-pipeline",
        )
    try:
        settings = dict(settings_of(document))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", remedy="write the bundle again: ntt export-pipeline") from error
    encoder = settings.get("encoder_cfg")
    settings["encoder_cfg"] = {**(encoder if isinstance(encoder, dict) else {}), "name": str(place / ENCODER_FOLDER)}
    settings["sam2_cfg_file"] = str(place / SAM2_FOLDER)
    memory = place / MEMORY_FILE
    return Bundle(folder=place, settings=settings, memory=memory if memory.is_file() else None)


def default_models(runtime: Literal["torch", "onnx"] | None) -> tuple[dict[str, Any], Literal["torch", "onnx"]]:
    """Return the settings of the models that are taken where none are named, and what runs them; say which.

    Args:
        runtime: What was asked for.
    """
    pair = pair_at_hand() if runtime != "onnx" and find_spec("torch") else None
    if pair is not None:
        log.info("%s", said_of_default(pair))
        return pair.settings(), "torch"
    warnings.warn(said_of_default(None), stacklevel=3)
    # Its folders hold the weights for torch too.
    return dict(read_bundle(SHIPPED).settings), runtime or "onnx"


def shipped_bundle(name: str) -> Path | None:
    """Return the folder of a bundle that the project ships, by its name; None if there is none."""
    return shipped.shipped_bundle(name, SETTINGS_FILE)
