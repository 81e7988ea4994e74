"""Equinox encoders from files of any layout, and to files of their own."""

import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from no_time_to_train.configs.encoders import EncoderConfig, resolve_encoder, weights_at_hand
from no_time_to_train.configs.sam2_releases import nearest_sam2
from no_time_to_train.errors import ConfigError, UnknownEncoderError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.jax_models.convnext import DinoV3ConvNeXt
from no_time_to_train.jax_models.vit import DinoV3ViT
from no_time_to_train.weights.architecture import matches
from no_time_to_train.weights.equinox_source import EquinoxSource, equinox_header, read_equinox_source
from no_time_to_train.weights.formats.equinox import header_line
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.identify import architecture_mismatch_error

EqxEncoder = DinoV3ViT | DinoV3ConvNeXt


def load_eqx_encoder(
    name_or_path: str | Path, path: str | Path | None = None, *, dtype: DTypeLike | None = jnp.float32
) -> EqxEncoder:
    """Load an encoder for JAX from any layout that the torch side loads.

    Args:
        name_or_path: A registry name, whose weights are looked for under `checkpoints/` unless `path` names them; or
            a file or folder, whose architecture is read from its tensors.
        path: A file or folder that must hold the named encoder.
        dtype: Of the parameters; None for the stored one. RoPE periods keep theirs: angles are computed in float32.

    Returns:
        A module that takes one image `(3, H, W)` and gives `EncoderFeatures`; `jax.vmap` it for batches.

    Raises:
        UnknownEncoderError: It is neither a path nor the name of an entry.
        WeightsNotFoundError: There are no weights.
        WeightsFormatError: They are damaged, or of an encoder that has no Equinox model.
        ShapeMismatchError: They are of another encoder than the named one.
    """
    entry, path = named_weights(name_or_path, path)
    source = read_equinox_source(path)
    check_encoder(entry, source)
    return fill_encoder(source, entry, dtype=dtype)


def named_weights(name_or_path: str | Path, path: str | Path | None = None) -> tuple[EncoderConfig | None, Path]:
    """Find the weights that a user names, as `load_eqx_encoder` takes them.

    Returns:
        The registry entry if one was named, and the file or folder.

    Raises:
        UnknownEncoderError: It is neither a path nor the name of an entry.
        WeightsNotFoundError: There are no weights.
    """
    meant = None if Path(name_or_path).exists() else nearest_sam2(str(name_or_path))
    if meant is not None:
        raise UnknownEncoderError(
            f"{str(name_or_path)!r} is neither a file nor a released SAM2", remedy=f"did you mean {meant}?"
        )
    if path is not None:
        return resolve_encoder(str(name_or_path)), Path(path)
    if Path(name_or_path).exists():
        return None, Path(name_or_path)
    if Path(name_or_path).suffix or isinstance(name_or_path, Path):
        raise WeightsNotFoundError(f"no weights at {name_or_path}", remedy="check the path")
    try:
        entry = resolve_encoder(str(name_or_path))
    except UnknownEncoderError as error:
        if "/" not in str(name_or_path):
            raise
        # Hub ids have a stroke as well, but are known.
        raise WeightsNotFoundError(f"no weights at {name_or_path}", remedy="check the path") from error
    found = weights_at_hand(entry)
    if found is None:
        raise WeightsNotFoundError(
            f"no weights of {entry.name} under checkpoints/", remedy=f"ntt fetch {entry.name}, or name them"
        )
    return entry, Path(found)


def check_encoder(entry: EncoderConfig | None, source: EquinoxSource) -> None:
    """Refuse weights of another encoder than the named one.

    Raises:
        ShapeMismatchError: With the encoder that they are of.
    """
    if entry is not None and not matches(entry, source.architecture):
        raise architecture_mismatch_error(entry, source.path, source.architecture)


def save_eqx_encoder(model: EqxEncoder, path: str | Path) -> Path:
    """Write an encoder as an Equinox file: a line of JSON that says what it is, then its leaves.

    Args:
        model: As `load_eqx_encoder` gives it.
        path: The file (`.eqx`). `ntt inspect` tells what it is, and every part of this package reads it.

    Returns:
        The file.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(path)
    config: dict[str, Any] = {"layer_norm_eps": model.layer_norm_eps}
    if isinstance(model, DinoV3ViT):
        config |= {"rope_theta": model.rope_theta, "hidden_act": model.activation}
    header = equinox_header(
        model.config,
        model.architecture,
        config,
        periods_stored=isinstance(model, DinoV3ViT) and model.periods_stored,
    )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header_line(header, leaf_names(model)))
        eqx.tree_serialise_leaves(stream, model)
    return path


def leaf_names(model: eqx.Module) -> list[str]:
    """Return the names of a model's leaves in the order in which Equinox writes them.

    Examples:
        >>> leaf_names(eqx.nn.Linear(1, 1, key=jax.random.key(0)))
        ['weight', 'bias']
    """
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    return [".".join(str(getattr(part, "name", getattr(part, "idx", part))) for part in place) for place, _ in leaves]


def abstract_encoder(source: EquinoxSource, entry: EncoderConfig | None = None) -> EqxEncoder:
    """Build an encoder whose leaves have shapes and no values (`jax.ShapeDtypeStruct`), in float32.

    Args:
        source: Its weights.
        entry: The registry entry; the source's own if None.

    Raises:
        ConfigError: The environment asks JAX for a device that is not there.
        WeightsFormatError: The weights are not those of the model, or state an activation that it has not.
    """
    check_platform()
    settings = dict(source.config)
    if settings.get("hidden_act", "gelu") not in ("gelu", "silu"):
        raise WeightsFormatError(
            f"{source.path} states the activation {settings['hidden_act']!r}, expected gelu or silu",
            remedy="use it with torch",
        )
    eps = {"layer_norm_eps": float(settings["layer_norm_eps"])} if "layer_norm_eps" in settings else {}
    config = entry or source.entry

    def build(key: jax.Array) -> EqxEncoder:
        if source.architecture.family == "dinov3_convnext":
            return DinoV3ConvNeXt(source.architecture, config, key=key, **eps)
        return DinoV3ViT(
            source.architecture,
            config,
            key=key,
            rope_theta=float(settings.get("rope_theta", 100)),
            activation=settings.get("hidden_act"),
            with_mask_token="mask_token" in source.leaves,
            periods_stored=source.periods_stored,
            **eps,
        )

    model: EqxEncoder = eqx.filter_eval_shape(build, jax.random.key(0))
    names, leaves = leaf_names(model), jax.tree_util.tree_leaves(model)
    if names != list(source.leaves):
        missing, other = set(names) - set(source.leaves), set(source.leaves) - set(names)
        raise WeightsFormatError(
            f"the tensors of {source.path} are not those of {type(model).__name__}: missing {sorted(missing)[:10]}, "
            f"unexpected {sorted(other)[:10]}",
            remedy="fetch the weights again",
        )
    for name, leaf in zip(names, leaves, strict=True):
        stored = source.leaves[name]
        if name != "rope_periods" and stored.shape != leaf.shape:
            raise WeightsFormatError(
                f"{name} in {source.path} is {stored.shape}, expected {leaf.shape}", remedy="fetch the weights again"
            )
    return model


def check_platform() -> None:
    """Start JAX, which `JAX_PLATFORMS` may keep from that.

    Raises:
        ConfigError: It does.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for cuda without JAX's CUDA libraries
        said = " ".join(str(error).split()) or "no such device"
        raise ConfigError(
            f"JAX does not start with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {said}",
            remedy="unset JAX_PLATFORMS, or set it to cpu",
        ) from error


def fill_encoder(
    source: EquinoxSource, entry: EncoderConfig | None = None, *, dtype: DTypeLike | None = jnp.float32
) -> EqxEncoder:
    """Build an encoder with its values; see `abstract_encoder`.

    Args:
        source: Its weights.
        entry: The registry entry; the source's own if None.
        dtype: Of the parameters; None for the stored one. RoPE periods keep theirs.
    """
    tree = jax.tree_util.tree_structure(abstract_encoder(source, entry))
    values = [array_of(stored, None if name == "rope_periods" else dtype) for name, stored in source.leaves.items()]
    filled: EqxEncoder = jax.tree_util.tree_unflatten(tree, values)
    return filled


def array_of(stored: StoredTensor, dtype: DTypeLike | None) -> jax.Array:
    """Copy a tensor out of its file, which may change later.

    numpy copies and casts: JAX would compile a program for every shape first.

    Args:
        stored: The tensor.
        dtype: Of the array; None for the stored one.
    """
    with np.errstate(over="ignore"):  # infinite then, as in JAX
        return jnp.asarray(np.array(stored.array(), None if dtype is None else jnp.dtype(dtype)))
