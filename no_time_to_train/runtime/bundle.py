"""A bundle: one folder with the ONNX files of both networks, the settings, and a memory of references if there is one.

`ntt export-pipeline` writes it; `ntt predict --bundle` and `Segmenter.from_bundle` run it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.configs.parsing import settings_of
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.io.strict_yaml import read_yaml

SETTINGS_FILE, MEMORY_FILE = "pipeline.yaml", "memory.safetensors"
ENCODER_FOLDER, SAM2_FOLDER = "encoder", "sam2"
FORMAT = "no_time_to_train bundle 1"
# Bundles that the project ships: in an installed package, and in a clone.
_SHIPPED = (Path(__file__).parents[1] / "bundles", Path(__file__).parents[2] / "checkpoints")


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


def shipped_bundle(name: str) -> Path | None:
    """Return the folder of a bundle that the project ships, by its name; None if there is none."""
    if Path(name).name != name:
        return None
    return next((root / name for root in _SHIPPED if (root / name / SETTINGS_FILE).is_file()), None)
