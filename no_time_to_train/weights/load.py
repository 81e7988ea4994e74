"""Strict loading: a model on the meta device takes the tensors of a file by assignment, or says why not."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.architecture import read_architecture
from no_time_to_train.weights.formats.reader import StoredTensors, read_stored
from no_time_to_train.weights.json_files import FETCH_AGAIN, parse_object, read_object
from no_time_to_train.weights.layouts.base import Layout
from no_time_to_train.weights.layouts.dino import detect_layout, to_transformers
from no_time_to_train.weights.layouts.equinox import EQUIMO_DINOV3_VIT
from no_time_to_train.weights.shapes import check_complete, wrong_shapes
from no_time_to_train.weights.source import Architecture, WeightsSource

# Where a safetensors file keeps the RoPE periods of Meta's file that it was made from, as JSON.
ROPE_PERIODS = "rope_periods"
# The tensors that hold them: Meta's, those of our Equinox models, Equimo's.
_PERIODS = ("rope_embed.periods", "rope_periods", "local_pos_embed.periods")


def assign_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    optional: Collection[str] = (),
) -> None:
    """Fill a model built on the meta device, tensor by tensor, so that the weights never exist twice.

    Args:
        model: Its parameters and persistent buffers are replaced; they may be on the meta device.
        tensors: Values by the model's own names.
        source: The file's name, for messages.
        dtype: Floating-point tensors are cast to it.
        device: Where the tensors go.
        optional: Names which the model has and the file may lack; those are left as they are.

    Raises:
        KeyMismatchError: The file lacks tensors of the model, or holds others.
        ShapeMismatchError: A tensor's shape differs.
        WeightsFormatError: Integers stand where the model has floating-point numbers, or some are not finite.
    """
    own = model.state_dict(keep_vars=True)
    missing = sorted(own.keys() - tensors.keys() - set(optional))
    unexpected = sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind}: {first_of(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise KeyMismatchError(
            f"the tensors of {source} are not those of {type(model).__name__}: {'; '.join(parts)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    wrong = wrong_shapes(tensors, {name: value.shape for name, value in own.items()})
    if wrong:
        raise ShapeMismatchError(
            f"{len(wrong)} tensors of {source} do not fit {type(model).__name__}: {first_of(wrong)}",
            remedy="name the encoder or SAM2 configuration that this file was made for",
        )
    numbers = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if own[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if numbers:
        raise WeightsFormatError(
            f"{len(numbers)} tensors of {source} are not of floating point: {first_of(numbers)}",
            remedy="quantised weights are not read; name the original file",
        )
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise WeightsFormatError(
            f"{len(broken)} tensors of {source} hold NaN or infinite values: {first_of(broken)}", remedy=FETCH_AGAIN
        )
    for name, tensor in tensors.items():
        _assign(model, name, own[name], tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite in float32; of a tensor without values nothing is known."""
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # of eight bits torch adds nothing up
    # A sum reads the values once and keeps nothing; it may overflow where no value does.
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.float().isfinite().all())


def _assign(model: nn.Module, name: str, old: Tensor, new: Tensor) -> None:
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, new)


def read_source(path: Path | str) -> WeightsSource:
    """Read an encoder's weights from any layout, and tell its architecture from the tensors.

    Args:
        path: A Hugging Face folder, a `.safetensors` file, or Meta's `.pth`.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: The file is damaged, or in no known layout; `KeyMismatchError` and `UnsafeWeightsError`
            are kinds of it.
    """
    path = Path(path)
    return source_of(read_stored(path), path)


def source_of(stored: StoredTensors, path: Path) -> WeightsSource:
    """Map the tensors of an encoder's file, as `read_stored` gave them; see `read_source`."""
    raw = stored.tensors
    layout = detect_layout(raw, str(path))
    periods = stored_periods(stored)
    tensors = to_transformers(raw, layout, str(path))
    _drop_zero_key_biases(tensors)
    config, preprocessor = _settings_beside(stored, layout, path)
    _check_settings(config, path)
    architecture = read_architecture(
        tensors, layout, str(path), rope_periods=periods, untied_norm="local_cls_norm.weight" in raw
    )
    check_complete(tensors, architecture, str(path))
    return WeightsSource(
        path=path,
        layout=layout.name,
        architecture=_with_stated_heads(architecture, config, path),
        tensors=tensors,
        rope_periods=None if periods is None else periods.float(),
        model_config=config,
        preprocessor=preprocessor,
    )


def _drop_zero_key_biases(tensors: dict[str, Tensor]) -> None:
    """Leave out the key biases of a DINOv3 ViT when all are zero, as in every released file: its model has none."""
    names = [name for name in tensors if name.startswith("model.layer.") and name.endswith(".attention.k_proj.bias")]
    # Of headers alone nothing is known of the values, and no released file has others.
    if names and not any(bool(tensors[name].any()) for name in names if not tensors[name].is_meta):
        for name in names:
            del tensors[name]


def stored_periods(stored: StoredTensors) -> Tensor | None:
    """Return the RoPE periods that a file states, in the dtype in which it does; None where it states none.

    Meta's files hold them as a tensor, folders that `ntt convert` wrote as metadata. An Equinox file always holds
    them, and says in its header whether they were stored in the file that it was made from.
    """
    computed = stored.header.get("rope_periods") == "computed"
    for name in _PERIODS:
        if name in stored.tensors and not computed:
            return check_periods(stored.tensors[name], stored.files[0])
    if ROPE_PERIODS not in stored.metadata:
        return None
    content = parse_object(stored.metadata[ROPE_PERIODS], f"{ROPE_PERIODS} in {stored.files[0]}")
    kinds = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.bfloat16, torch.float16)}
    try:
        periods = torch.tensor(content["values"], dtype=kinds[content["dtype"]])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsFormatError(
            f"{stored.files[0]} holds RoPE periods that are not numbers", remedy="convert the original weights again"
        ) from error
    return check_periods(periods, stored.files[0])


def check_periods(periods: Tensor, file: Path) -> Tensor:
    """Return RoPE periods, unless they are not positive numbers: features are divided by them.

    Args:
        periods: As they are stored. Of a tensor on the meta device nothing is known.
        file: Where they are from, for messages.

    Raises:
        WeightsFormatError: One is zero, negative, NaN or infinite.
    """
    if not periods.is_meta:
        values = periods.float().flatten()
        wrong = values[~(values.isfinite() & (values > 0))]
        if len(wrong):
            raise WeightsFormatError(
                f"{file} holds RoPE periods that are not positive numbers, such as {wrong[0].item()}",
                remedy=FETCH_AGAIN,
            )
    return periods


def _with_stated_heads(architecture: Architecture, config: Mapping[str, Any], path: Path) -> Architecture:
    """Return the architecture with the attention heads that `config.json` states, where the tensors do not tell them.

    Raises:
        WeightsFormatError: It states others than the tensors tell, or the width cannot be shared by so many.
    """
    stated = config.get("num_attention_heads")
    if architecture.family == "dinov3_convnext" or stated is None:
        return architecture
    if architecture.num_heads not in (None, stated):
        raise WeightsFormatError(
            f"{path} states {stated} attention heads, its RoPE periods are those of {architecture.num_heads}",
            remedy="correct num_attention_heads in config.json",
        )
    width, unit = architecture.embed_dim, stated * (4 if architecture.family == "dinov3_vit" else 1)
    if width % unit:
        multiple = " whose width is a multiple of 4" if architecture.family == "dinov3_vit" else ""
        raise WeightsFormatError(
            f"a width of {width} cannot be shared by {stated} attention heads{multiple}",
            remedy="check num_attention_heads in config.json",
        )
    return replace(architecture, num_heads=stated)


def _check_settings(config: dict[str, Any], path: Path) -> None:
    """Refuse settings of other types than the models', and make numbers of one kind.

    Raises:
        WeightsFormatError: One of them is none.
    """
    for name in ("layer_norm_eps", "rope_theta", "num_attention_heads", "hidden_act"):
        if name not in config:
            continue
        value = config[name]
        if name == "hidden_act":
            fits = isinstance(value, str)
        else:
            kinds = (int,) if name == "num_attention_heads" else (int, float)
            fits = isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf
        if not fits:
            raise WeightsFormatError(
                f"{path} states {name} as {value!r}, which no encoder takes", remedy="correct it, or fetch it again"
            )
        if name in ("layer_norm_eps", "rope_theta"):
            config[name] = float(value)


def _settings_beside(stored: StoredTensors, layout: Layout, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what stands beside the tensors in the words of `config.json` and `preprocessor_config.json`."""
    if layout.name.startswith("transformers"):
        folder = path if path.is_dir() else path.parent
        beside = (folder / "config.json", folder / "preprocessor_config.json")
        config, preprocessor = (read_object(file) if file.is_file() else {} for file in beside)
        return config, preprocessor
    if layout is EQUIMO_DINOV3_VIT:
        model = stored.header.get("model_config")
        heads = model.get("num_heads") if isinstance(model, dict) else None
        return ({"num_attention_heads": heads} if isinstance(heads, int) else {}), {}
    return dict(stored.header.get("config", {})), dict(stored.header.get("preprocessor", {}))
