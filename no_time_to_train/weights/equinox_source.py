"""An encoder's weights, of any layout, as the leaves of our Equinox models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import Architecture, EncoderSpec
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, from_array
from no_time_to_train.weights.identify import identify_encoder
from no_time_to_train.weights.layouts.equinox import EQUINOX_DINOV3_CONVNEXT, EQUINOX_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import equinox_tensors
from no_time_to_train.weights.rope import rope_periods
from no_time_to_train.weights.source import WeightsSource, read_source

_LAYOUTS = {"dinov3_vit": EQUINOX_DINOV3_VIT, "dinov3_convnext": EQUINOX_DINOV3_CONVNEXT}
# What decides features beside the tensors.
_SETTINGS = ("layer_norm_eps", "rope_theta", "hidden_act", "num_attention_heads")


@dataclass(frozen=True, kw_only=True)
class EquinoxSource:
    """What an Equinox model is made of.

    Attributes:
        weights: The file.
        architecture: As the tensors show it.
        entry: The registry entry, or one made for this architecture.
        config: What decides features beside the tensors, in the words of `config.json`.
        leaves: In the model's order, by the names of its fields.
        periods_stored: Whether the source held RoPE periods, or they were computed.
    """

    weights: WeightsSource
    architecture: Architecture
    entry: EncoderSpec
    config: Mapping[str, Any]
    leaves: Mapping[str, StoredTensor]
    periods_stored: bool

    @property
    def path(self) -> Path:
        """The file or folder as it was named."""
        return self.weights.path


def equinox_header(
    entry: EncoderSpec, architecture: Architecture, config: Mapping[str, Any], *, periods_stored: bool
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
    return equinox_source_of(read_source(path))


def equinox_source_of(source: WeightsSource) -> EquinoxSource:
    """Find the leaves of an Equinox model; see `read_equinox_source`."""
    layout = _LAYOUTS.get(source.architecture.family)
    if layout is None:
        raise WeightsFormatError(
            f"{source.path} is a {source.architecture.family}, for which there is no Equinox model",
            remedy="there are those of DINOv3; use it with torch, or convert it to hf",
        )
    entry, periods = identify_encoder(source), source.rope_periods
    config = {name: source.model_config[name] for name in _SETTINGS if name in source.model_config}
    computed = periods is None and layout is EQUINOX_DINOV3_VIT
    if computed:
        periods = from_array(rope_periods(entry.embed_dim // entry.num_heads, float(config.get("rope_theta", 100))))
    return EquinoxSource(
        weights=source,
        architecture=replace(source.architecture, num_heads=entry.num_heads),
        entry=entry,
        config=config,
        leaves=equinox_tensors(source.tensors, layout, rope_periods=periods, source=str(source.path)),
        periods_stored=not computed,
    )
