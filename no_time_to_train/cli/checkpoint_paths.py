"""Checkpoints that a command line names, looked into before Lightning does."""

import pickle
import zipfile
from pathlib import Path

from no_time_to_train.errors import ConfigError, UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.formats.reader import load_tensors
from no_time_to_train.weights.hub.http_errors import without_secrets


def names_in(path: Path) -> frozenset[str]:
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
        state = load_tensors(path, headers_only=True, map_location="meta")["state_dict"]
        return frozenset(state)
    except pickle.UnpicklingError as error:
        raise UnsafeWeightsError(
            f"{path} asks for more than tensors and plain values, so it was not loaded", remedy=remedy
        ) from error
    except (KeyError, TypeError) as error:
        raise WeightsFormatError(f"{path} is not a checkpoint of a training", remedy=remedy) from error
    except Exception as error:  # what a damaged pickle does to its reader has no limits
        raise WeightsFormatError(f"{path} is not a checkpoint, or not a whole one", remedy=remedy) from error


def refuse_elsewhere(checkpoint: str) -> None:
    """Refuse what Lightning would fetch, a file whose name begins like a link among them, and then unpickle.

    Raises:
        ConfigError: It is not a path on this machine.
    """
    if "://" in checkpoint or "::" in checkpoint or checkpoint.startswith(("http", "registry")):
        raise ConfigError(
            f"--ckpt_path {without_secrets(checkpoint)} is not a local file, and nothing is fetched for a run",
            remedy="fetch the checkpoint first and give its path, which may not begin with http or registry",
        )
