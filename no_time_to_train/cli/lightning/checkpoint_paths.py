"""Checkpoints that a command line names, looked into before Lightning does."""

import zipfile
from pathlib import Path

from no_time_to_train.errors import ConfigError, UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.formats.torch_pickle import read_structure
from no_time_to_train.weights.http.errors import without_secrets


def read_tensor_names(path: Path) -> frozenset[str]:
    """Return the names of the tensors in a checkpoint.

    Raises:
        WeightsNotFoundError: It is not there.
        WeightsFormatError: It is not a checkpoint, or is damaged.
        UnsafeWeightsError: It asks for more than tensors and plain values.
    """
    remedy = "name another one"
    if not path.exists():
        raise WeightsNotFoundError(f"there is no checkpoint {path}", remedy="check the path, or name last")
    # Nothing else is opened: reading a FIFO waits forever.
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise WeightsFormatError(f"{path} is not a checkpoint, or not a whole one", remedy=remedy)
    try:
        loaded = read_structure(path)
    except UnsafeWeightsError as error:
        raise UnsafeWeightsError(
            f"{path} asks for more than tensors and plain values, so it was not loaded", remedy=remedy
        ) from error
    except WeightsFormatError as error:
        raise WeightsFormatError(f"{path} is not a checkpoint, or not a whole one", remedy=remedy) from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise WeightsFormatError(f"{path} is not a checkpoint of a training", remedy=remedy)
    return frozenset(map(str, state))


def require_local_path(checkpoint: str) -> None:
    """Refuse what Lightning would fetch, a file whose name begins like a link among them, and then unpickle.

    Raises:
        ConfigError: It is not a path on this machine.
    """
    if "://" in checkpoint or "::" in checkpoint or checkpoint.startswith(("http", "registry")):
        raise ConfigError(
            f"--ckpt_path {without_secrets(checkpoint)} is not a local file, and nothing is fetched for a run",
            remedy="fetch the checkpoint first and give its path, which may not begin with http or registry",
        )
