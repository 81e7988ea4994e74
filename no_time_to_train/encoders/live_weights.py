"""The encoder within a module that is being trained or run, and its weights as they are now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DINOv3ConvNextModel, DINOv3ViTModel, PreTrainedModel

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, EncoderConfig, Family
from no_time_to_train.encoders.torch_encoder import FeatureEncoder
from no_time_to_train.io.atomic import atomic_files
from no_time_to_train.weights.formats.writer import write_safetensors
from no_time_to_train.weights.hf_config import CONFIG, PREPROCESSOR, common_dtype, preprocessor_of, write_json
from no_time_to_train.weights.layouts.mapping import hub_tensors
from no_time_to_train.weights.load import from_tensor
from no_time_to_train.weights.rope import ROPE_PERIODS, periods_as_json, rope_periods

_MODELS = (DINOv3ViTModel, DINOv3ConvNextModel)


class EncoderSnapshot(NamedTuple):
    """A transformers model, and its registry entry where the module tells it."""

    model: PreTrainedModel
    entry: EncoderConfig | None

    @property
    def name(self) -> str | None:
        """The registry's name of it, if it has one."""
        return self.entry.name if self.entry is not None and self.entry.name in ENCODER_CONFIGS else None


def find_live_encoder(module: nn.Module) -> EncoderSnapshot | None:
    """Find the encoder in a module: its `FeatureEncoder`, or a DINOv3 model of transformers.

    One that is trained goes before one that is frozen, such as a teacher; then the first. The entry of a plain model is
    the module's attribute `entry`, if it is one.
    """
    found: list[EncoderSnapshot] = []
    entry = getattr(module, "entry", None)
    for part in module.modules():
        if isinstance(part, FeatureEncoder) and isinstance(part.model, _MODELS):
            found.append(EncoderSnapshot(part.model, part.config))
        elif isinstance(part, _MODELS) and not any(part is live.model for live in found):
            found.append(EncoderSnapshot(part, entry if isinstance(entry, EncoderConfig) else None))
    trained = [live for live in found if any(parameter.requires_grad for parameter in live.model.parameters())]
    return next(iter(trained or found), None)


def select_encoder_tensors(
    state: Mapping[str, Any] | None, module: nn.Module, live: EncoderSnapshot
) -> dict[str, Tensor] | None:
    """Return the tensors of a module's encoder in a state of the module, which may hold averages of its weights.

    Returns:
        By the model's names; None where the state does not hold all of them whole, as that of a sharded module.
    """
    name = next(name for name, part in module.named_modules() if part is live.model)
    prefix, wanted = f"{name}." if name else "", live.model.state_dict()
    found = {key: (state or {}).get(f"{prefix}{key}") for key in wanted}
    whole = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    return whole if all(key in whole and whole[key].shape == value.shape for key, value in wanted.items()) else None


def save_encoder_snapshot(live: EncoderSnapshot, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write an encoder's present weights as a Hugging Face folder; nothing of the model changes.

    The weights are never there beside the settings of others.

    Args:
        live: The encoder.
        folder: Made if it is not there.
        tensors: Others than its present weights, by the model's names.

    Raises:
        OutputError: It cannot be written to.
    """
    present = live.model.state_dict() if tensors is None else tensors
    copies = {name: from_tensor(tensor) for name, tensor in present.items()}
    family: Family = "dinov3_vit" if isinstance(live.model, DINOv3ViTModel) else "dinov3_convnext"
    named = hub_tensors(copies, family, type(live.model).__name__)
    rope = getattr(live.model, "rope_embeddings", None)
    metadata = {} if rope is None else _stored_periods(rope)
    config = {
        **live.model.config.to_dict(),
        "architectures": [type(live.model).__name__],
        "dtype": common_dtype(copies.values()),
    }
    with atomic_files(folder, last="model.safetensors") as beside:
        write_safetensors(beside / "model.safetensors", named, metadata)
        write_json(beside / CONFIG, config)
        if live.entry is not None:
            write_json(beside / PREPROCESSOR, preprocessor_of(live.entry, live.entry.default_img_size))


def _stored_periods(rope: nn.Module) -> dict[str, str]:
    """Return the RoPE periods of a model that has others than its formula gives, such as Meta's in bfloat16."""
    inverse = rope.get_buffer("inv_freq").detach().double().cpu()
    formula = torch.from_numpy(rope_periods(4 * len(inverse), float(getattr(rope, "base", 100.0))))
    if torch.allclose(inverse * formula, torch.ones_like(inverse), rtol=1e-6, atol=0):
        return {}
    return {ROPE_PERIODS: periods_as_json(from_tensor((1 / inverse).float()))}
