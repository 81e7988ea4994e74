"""An encoder's weights, of any layout, as the leaves of our Equinox models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.formats.reader import StoredTensors, read_stored
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, locate_tensors
from no_time_to_train.weights.identify import entry_of
from no_time_to_train.weights.layouts.equinox import EQUINOX_DINOV3_CONVNEXT, EQUINOX_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import equinox_tensors, transformers_tensors
from no_time_to_train.weights.load import check_periods, source_of, stored_periods
from no_time_to_train.weights.source import Architecture

_LAYOUTS = {"dinov3_vit": EQUINOX_DINOV3_VIT, "dinov3_convnext": EQUINOX_DINOV3_CONVNEXT}
# What decides features beside the tensors.
_SETTINGS = ("layer_norm_eps", "rope_theta", "hidden_act", "num_attention_heads")


@dataclass(frozen=True, kw_only=True)
class EquinoxSource:
    """What an Equinox model is made of.

    Attributes:
        path: As it was named.
        architecture: As the tensors show it; its key bias is as the model needs it.
        entry: The registry entry, or one made for this architecture.
        config: What decides features beside the tensors, in the words of `config.json`.
        leaves: In the model's order, by the names of its fields.
        periods_stored: Whether the source held RoPE periods, or they were computed.
    """

    path: Path
    architecture: Architecture
    entry: EncoderConfig
    config: Mapping[str, Any]
    leaves: Mapping[str, StoredTensor]
    periods_stored: bool

    def header(self) -> dict[str, Any]:
        """Return what an Equinox file says of itself before its leaves."""
        return equinox_header(self.entry, self.architecture, self.config, periods_stored=self.periods_stored)


def equinox_header(
    entry: EncoderConfig, architecture: Architecture, config: Mapping[str, Any], *, periods_stored: bool
) -> dict[str, Any]:
    """Return what an Equinox file says of itself before its leaves.

    Args:
        entry: The registry entry, or one made for this architecture.
        architecture: As the tensors show it.
        config: What decides features beside the tensors, in the words of `config.json`.
        periods_stored: Whether the RoPE periods were stored with the weights.
    """
    return {
        "encoder": entry.name,
        "architecture": asdict(architecture),
        "config": {**config, **({"num_attention_heads": entry.num_heads} if entry.num_heads else {})},
        "preprocessor": {"image_mean": entry.image_mean, "image_std": entry.image_std},
        "rope_periods": "stored" if periods_stored else "computed",
    }


def read_equinox_source(path: Path | str) -> EquinoxSource:
    """Find the leaves of an Equinox model in a weights file or folder of any layout.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: It is damaged, in no known layout, or of an encoder that has no Equinox model.
    """
    path = Path(path)
    stored = read_stored(path, headers_only=True)
    source, located = source_of(stored, path), locate_tensors(path)
    layout = _LAYOUTS.get(source.architecture.family)
    if layout is None:
        raise WeightsFormatError(
            f"{path} is a {source.architecture.family}, for which there is no Equinox model",
            remedy="there are those of DINOv3; use it with torch, or convert it to hf",
        )
    tensors = transformers_tensors(located, str(path))
    entry = entry_of(source)
    periods = periods_of(stored, located)
    config = {name: source.model_config[name] for name in _SETTINGS if name in source.model_config}
    computed = periods is None and layout is EQUINOX_DINOV3_VIT
    leaves = equinox_tensors(
        tensors,
        layout,
        rope_periods=rope_periods(entry, float(config.get("rope_theta", 100))) if computed else periods,
        source=str(path),
    )
    with_key_bias = any(name.endswith(".attention.k_proj.bias") for name in tensors)
    return EquinoxSource(
        path=path,
        architecture=replace(source.architecture, key_bias=with_key_bias, num_heads=entry.num_heads),
        entry=entry,
        config=config,
        leaves=leaves,
        periods_stored=not computed,
    )


def periods_of(stored: StoredTensors, located: Mapping[str, StoredTensor]) -> Tensor | None:
    """Return the RoPE periods that a file states, of which headers alone were read."""
    periods = stored_periods(stored)
    if periods is None or not periods.is_meta:
        return periods
    (name,) = (name for name, tensor in stored.tensors.items() if tensor is periods)
    return check_periods(located[name].load(), stored.files[0])


def rope_periods(entry: EncoderConfig, base: float) -> Tensor:
    """Return the RoPE periods by the formula, in float32, as Meta computes them."""
    quarter = entry.embed_dim // entry.num_heads // 4
    return base ** (torch.arange(quarter, dtype=torch.float32) / quarter)
