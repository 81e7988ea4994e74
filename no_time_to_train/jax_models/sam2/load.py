"""SAM2 in JAX from Meta's files and transformers' folders."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from no_time_to_train.configs.sam2 import (
    SAM2_CONFIGS,
    HieraShape,
    Sam2Architecture,
    read_sam2_architecture,
    sam2_architecture,
)
from no_time_to_train.configs.sam2_releases import SAM2_FILES, nearest_sam2, sam2_file
from no_time_to_train.configs.shipped import weights_folder
from no_time_to_train.errors import (
    ConfigError,
    KeyMismatchError,
    NoTimeToTrainError,
    ShapeMismatchError,
    UnknownNameError,
    WeightsNotFoundError,
)
from no_time_to_train.io.messages import first_of
from no_time_to_train.jax_models.load import array_of, check_platform, leaf_names
from no_time_to_train.jax_models.sam2.model import Sam2
from no_time_to_train.weights.formats.json_files import read_object
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, WeightsFile
from no_time_to_train.weights.layouts.sam2 import (
    hiera_shape,
    image_part_of_transformers,
    meta_sam2_to_transformers,
    sam2_layout,
)

CONFIG = "config.json"
# Of transformers' model and not of this one: a second copy of the positions, and what takes masks as prompts.
_LEFT_OUT = ("shared_image_embedding.", "prompt_encoder.mask_embed.")


@dataclass(frozen=True, kw_only=True)
class Sam2Source:
    """The weights of a SAM2 image model.

    Attributes:
        path: The file or folder as it was named.
        file: Its tensors as they are stored.
        layout: Whose names they have.
        architecture: The sizes.
        tensors: Of transformers' `Sam2Model`, by its names.
        leaves: Of the Equinox model, in its order.
    """

    path: Path
    file: WeightsFile
    layout: str
    architecture: Sam2Architecture
    tensors: Mapping[str, StoredTensor]
    leaves: Mapping[str, StoredTensor]


def load_eqx_sam2(name_or_path: str | Path, path: str | Path | None = None, *, dtype: DTypeLike = jnp.float32) -> Sam2:
    """Load a SAM2 image model for JAX from any layout that the torch side loads.

    Args:
        name_or_path: A released file's name such as `sam2_hiera_tiny`, whose weights are looked for under
            `checkpoints/` unless `path` names them; or a file or folder.
        path: A file or folder that must hold the named model.
        dtype: Of the parameters.

    Raises:
        UnknownNameError: No released file has the name.
        WeightsNotFoundError: There are no weights.
        WeightsFormatError: They are damaged, or not of SAM2.
        ShapeMismatchError: They are of another SAM2 than the named one.
        KeyMismatchError: Tensors are missing or unknown.
        ConfigError: The folder's `config.json` is not one of SAM2.
    """
    return fill_sam2(read_sam2_source(name_or_path, path), dtype=dtype)


def is_sam2(name_or_path: str | Path, path: str | Path | None = None) -> bool:
    """Return whether what a user names is a SAM2: by its name, else by the tensors in the file or folder."""
    place = Path(name_or_path if path is None else path)
    if not place.exists():
        return isinstance(name_or_path, str) and sam2_file(name_or_path) is not None
    try:
        sam2_layout(open_weights(place, verify=False).tensors, source=str(place))
    except NoTimeToTrainError:
        return False
    return True


def read_sam2_source(name_or_path: str | Path, path: str | Path | None = None) -> Sam2Source:
    """Find the leaves of a SAM2 model; see `load_eqx_sam2`, whose errors this raises."""
    named = None if isinstance(name_or_path, Path) or Path(name_or_path).exists() else sam2_file(name_or_path)
    if named is None and path is not None and not Path(name_or_path).exists():
        meant = nearest_sam2(str(name_or_path))
        raise UnknownNameError(
            f"no SAM2 is named {str(name_or_path)!r}",
            remedy=f"did you mean {meant}?" if meant else f"leave the name out, or use one of {', '.join(SAM2_FILES)}",
        )
    if path is None and named is not None:
        at_hand = weights_folder() / named.file_name
        if not at_hand.exists():
            raise WeightsNotFoundError(f"no weights at {at_hand}", remedy=f"ntt fetch {named.name}, or name them")
        path = at_hand
    path = Path(name_or_path if path is None else path)
    file = open_weights(path)
    layout = sam2_layout(file.tensors, source=str(path))
    if layout == "meta":
        tensors = meta_sam2_to_transformers(file.tensors, source=str(path))
    else:
        tensors = image_part_of_transformers(file.tensors)
    architecture = _architecture(path, file, layout, tensors)
    if named is not None and architecture.shape != SAM2_CONFIGS[named.config].shape:
        raise ShapeMismatchError(
            f"{path} is {_described(architecture.shape)}, expected {named.name}",
            remedy="name the weights that fit, or leave the name out",
        )
    return Sam2Source(
        path=path,
        file=file,
        layout=layout,
        architecture=architecture,
        tensors=tensors,
        leaves=_leaves(architecture, tensors, str(path)),
    )


def abstract_sam2(architecture: Sam2Architecture) -> Sam2:
    """Build a model whose leaves have shapes and no values (`jax.ShapeDtypeStruct`), in float32."""
    check_platform()
    return _abstract(architecture)


@functools.lru_cache(maxsize=2)
def _abstract(architecture: Sam2Architecture) -> Sam2:
    model: Sam2 = eqx.filter_eval_shape(lambda key: Sam2(architecture, key=key), jax.random.key(0))
    return model


def fill_sam2(source: Sam2Source, *, dtype: DTypeLike = jnp.float32) -> Sam2:
    """Build a model with its values.

    Args:
        source: Its weights.
        dtype: Of the parameters.
    """
    tree = jax.tree_util.tree_structure(abstract_sam2(source.architecture))
    values = [array_of(stored, dtype) for stored in source.leaves.values()]
    filled: Sam2 = jax.tree_util.tree_unflatten(tree, values)
    return filled


def _architecture(path: Path, file: WeightsFile, layout: str, tensors: Mapping[str, StoredTensor]) -> Sam2Architecture:
    """Return what `config.json` states next to the weights, or the released model that the tensors are of.

    Raises:
        ConfigError: It states other sizes than the tensors have, or there is none and the tensors are of no release.
    """
    shape = hiera_shape(tensors)
    beside = file.files[0].parent / CONFIG
    released = next((config for config in SAM2_CONFIGS.values() if config.shape == shape), None)
    if beside.is_file() and (layout == "transformers" or released is None):
        stated = read_sam2_architecture(read_object(beside), source=str(beside))
        if shape is not None and shape != stated.shape:
            raise ShapeMismatchError(
                f"{beside} is {_described(stated.shape)}, its weights are {_described(shape)}",
                remedy="put the config.json there that the weights were made with",
            )
        return stated
    if released is not None:
        return sam2_architecture(released)
    what = "a SAM2 of unknown sizes" if shape is None else _described(shape)
    raise ConfigError(f"{path} is {what}, without a {CONFIG}", remedy=f"put it in a folder with its {CONFIG}")


def _leaves(
    architecture: Sam2Architecture, tensors: Mapping[str, StoredTensor], source: str
) -> dict[str, StoredTensor]:
    """Put a model's tensors in the order of its leaves.

    Raises:
        KeyMismatchError: Tensors are missing or unknown.
        ShapeMismatchError: One is of another shape.
    """
    model = abstract_sam2(architecture)
    names, shapes = leaf_names(model), [leaf.shape for leaf in jax.tree_util.tree_leaves(model)]
    missing = [name for name in names if name not in tensors]
    unknown = sorted(name for name in tensors.keys() - set(names) if not name.startswith(_LEFT_OUT))
    if missing or unknown:
        raise KeyMismatchError(
            f"{source} lacks {len(missing)} tensors of SAM2 ({first_of(missing)}) and holds {len(unknown)} others "
            f"({first_of(unknown)})",
            remedy="name a SAM 2 or SAM 2.1 checkpoint, without further modules",
        )
    leaves = {}
    for name, shape in zip(names, shapes, strict=True):
        stored = tensors[name]
        # Equinox adds a convolution's bias to (channels, height, width).
        if stored.shape != shape and (*stored.shape, 1, 1) != shape:
            raise ShapeMismatchError(
                f"{name} in {source} is {stored.shape}, expected {shape}",
                remedy="name the configuration that the weights were made for, or fetch them again",
            )
        leaves[name] = replace(stored, shape=shape)
    return leaves


def _described(shape: HieraShape) -> str:
    """Say sizes by the names of the released files, or by their figures."""
    names = [file.name for file in SAM2_FILES.values() if SAM2_CONFIGS[file.config].shape == shape]
    return " or ".join(names) or f"a Hiera of width {shape.embed_dim} with {shape.stages} blocks"
