"""What a weights file holds: its layout, its architecture, its tensors under transformers' names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import Architecture
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.architecture import check_complete, read_architecture
from no_time_to_train.weights.formats.json_files import read_object
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, WeightsFile
from no_time_to_train.weights.layouts.base import Layout
from no_time_to_train.weights.layouts.dino import detect_layout
from no_time_to_train.weights.layouts.equinox import EQUIMO_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import to_transformers
from no_time_to_train.weights.rope import stored_periods


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """An encoder's weights: which they are, and where.

    Attributes:
        path: The file or folder as the user named it.
        file: Its tensors as they are stored.
        layout: The layout that they are in.
        architecture: What the tensors show.
        tensors: By the names of transformers' current models, in the stored dtype.
        rope_periods: Stored RoPE periods, one per quarter of the head width; None where the layout stores none.
        model_config: The `config.json` next to the weights; empty where there is none.
        preprocessor: The `preprocessor_config.json` next to the weights; empty where there is none.
    """

    path: Path
    file: WeightsFile
    layout: Layout
    architecture: Architecture
    tensors: Mapping[str, StoredTensor]
    rope_periods: StoredTensor | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)


def read_source(path: Path | str, *, verify: bool = True) -> WeightsSource:
    """Open an encoder's weights of any layout, and read the architecture from the tensors.

    Args:
        path: A Hugging Face folder, a `.safetensors` file, Meta's `.pth`, or an Equinox file.
        verify: Compare the checksums of a pickled state dict, for which it is read whole.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: The file is damaged, or in no known layout; `KeyMismatchError` and `UnsafeWeightsError`
            are kinds of it.
    """
    path = Path(path)
    return source_of(open_weights(path, verify=verify), path)


def source_of(file: WeightsFile, path: Path) -> WeightsSource:
    """Map the tensors of an encoder's file, as `open_weights` found them; see `read_source`."""
    layout = detect_layout(file.tensors, str(path))
    periods = stored_periods(file)
    tensors = to_transformers(file.tensors, layout, str(path))
    config, preprocessor = _settings(file, layout, path)
    _check_settings(config, path)
    architecture = read_architecture(
        tensors, layout, str(path), rope_periods=periods, untied_norm="local_cls_norm.weight" in file.tensors
    )
    check_complete(tensors, architecture, str(path))
    return WeightsSource(
        path=path,
        file=file,
        layout=layout,
        architecture=_with_stated_heads(architecture, config, path),
        tensors=tensors,
        rope_periods=periods,
        model_config=config,
        preprocessor=preprocessor,
    )


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


def _settings(file: WeightsFile, layout: Layout, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is stated next to the tensors, in the words of `config.json` and `preprocessor_config.json`."""
    if layout.name.startswith("transformers"):
        folder = path if path.is_dir() else path.parent
        paths = (folder / "config.json", folder / "preprocessor_config.json")
        config, preprocessor = (read_object(path) if path.is_file() else {} for path in paths)
        return config, preprocessor
    if layout is EQUIMO_DINOV3_VIT:
        model = file.header.get("model_config")
        heads = model.get("num_heads") if isinstance(model, dict) else None
        return ({"num_attention_heads": heads} if isinstance(heads, int) else {}), {}
    return dict(file.header.get("config", {})), dict(file.header.get("preprocessor", {}))
