"""Find YAMLs and weights: those that the project ships, and those that were fetched."""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parents[1]
_CLONE = _PACKAGE.parent
# In an installed package, and in a clone.
_SETTINGS = (_PACKAGE / "pl_configs", _CLONE / "pl_configs")
_BUNDLES = (_PACKAGE / "bundles", _CLONE / "checkpoints")
_SUFFIX = ".yaml"
_HERE = Path("checkpoints")


def find_settings(given: Path | str) -> Path:
    """Find a YAML by its path, or one that the project ships by its name.

    Args:
        given: A path; or a name as in `pl_configs/`, such as `quickstart`, `presets/fast.yaml`,
            `pl_configs/quickstart.yaml` or `no_time_to_train/pl_configs/quickstart.yaml`.

    Returns:
        Its path; the given path if nothing is found.

    Examples:
        >>> find_settings("quickstart").name, find_settings("no_time_to_train/pl_configs/presets/fast.yaml").name
        ('quickstart.yaml', 'fast.yaml')
        >>> str(find_settings("nowhere.yaml"))
        'nowhere.yaml'
    """
    path = Path(given)
    if path.exists() or path.is_absolute():
        return path
    parts = path.parts
    for folder in ("no_time_to_train", "pl_configs"):
        parts = parts[1:] if parts[:1] == (folder,) else parts
    if not parts or ".." in parts:
        return path
    name = Path(*parts)
    if name.suffix != _SUFFIX:
        name = name.with_name(name.name + _SUFFIX)
    return next((root / name for root in _SETTINGS if (root / name).is_file()), path)


def shipped_bundle(name: str, file: str) -> Path | None:
    """Return the folder of a shipped bundle, or None if no bundle has this name.

    Args:
        name: Of the bundle, such as `quickstart`.
        file: A file that a bundle has.
    """
    if not name or Path(name).name != name:
        return None
    return next((root / name for root in _BUNDLES if (root / name / file).is_file()), None)


def weights_folder() -> Path:
    """Return the folder in which weights are kept.

    `checkpoints/` of the working directory where there is one, and in a clone; else `checkpoints/` in the folder that
    NTT_HOME names, or in the user's folder for this program's data.
    """
    if _HERE.is_dir() or Path("no_time_to_train").is_dir():
        return _HERE
    home = os.environ.get("NTT_HOME")
    return (Path(home).expanduser() if home else platformdirs.user_data_path("no_time_to_train")) / _HERE


def find_weights(given: Path | str) -> Path:
    """Find weights by the path that they have in a clone, wherever the working directory is.

    Args:
        given: A path, such as `checkpoints/sam2_hiera_tiny.pt` or `checkpoints/quickstart/sam2`.

    Returns:
        The path itself, or the file in `weights_folder()` or among the shipped models; the given path if nothing is
        found.
    """
    path = Path(given)
    if path.parts[:1] != _HERE.parts or len(path.parts) < 2 or path.exists():
        return path
    rest = path.parts[1:]
    places = [weights_folder(), *_BUNDLES] if rest[0] == "quickstart" else [weights_folder()]
    return next((place.joinpath(*rest) for place in places if place.joinpath(*rest).exists()), path)
