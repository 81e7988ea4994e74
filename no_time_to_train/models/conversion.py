"""`ntt convert`: an encoder's weights from any layout to a Hugging Face folder or to Meta's file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from no_time_to_train.errors import OutputError
from no_time_to_train.files import atomic_folder, write_text_atomic
from no_time_to_train.models.encoder import entry_of
from no_time_to_train.models.transformers_models import build_model
from no_time_to_train.registry import EncoderConfig
from no_time_to_train.weights.convert import meta_tensors, transformers_tensors, write_pickle, write_safetensors
from no_time_to_train.weights.files import read_stored
from no_time_to_train.weights.layouts import META_DINOV2, META_DINOV3_CONVNEXT, META_DINOV3_VIT
from no_time_to_train.weights.load import ROPE_PERIODS, periods_in, source_of
from no_time_to_train.weights.ranges import locate_tensors

Target = Literal["hf", "meta"]

_META = {"dinov3_vit": META_DINOV3_VIT, "dinov3_convnext": META_DINOV3_CONVNEXT, "dinov2": META_DINOV2}
_PROCESSORS = {
    "dinov3_vit": "DINOv3ViTImageProcessorFast",
    "dinov3_convnext": "DINOv3ViTImageProcessorFast",
    "dinov2": "BitImageProcessorFast",
}
_HUB_SIZE = 224


def convert_weights(source: Path | str, destination: Path | str, to: Target) -> Path:
    """Write an encoder's weights in another layout, in the dtype in which they are stored.

    Bytes are copied from file to file, so that the memory does not grow with the weights. Features stay what they were:
    the RoPE periods that Meta stores go along, in a folder as the safetensors file's metadata.

    Args:
        source: What `build_encoder_from_checkpoint` reads.
        destination: A new or empty folder for `hf`; a new file for `meta`.
        to: `hf` is a folder that transformers' `AutoModel` opens; `meta` is a state dict by Meta's names (`.pth`).

    Returns:
        The destination.

    Raises:
        WeightsNotFoundError: There is no source.
        WeightsFormatError: The source is damaged, in no known layout, or does not fit Meta's.
        OutputError: The destination is taken, or cannot be written.
    """
    source, destination = Path(source), Path(destination)
    taken = destination.exists() and not (destination.is_dir() and to == "hf" and not any(destination.iterdir()))
    if taken:
        raise OutputError(f"{destination} is there already", remedy="name a new one, or remove it first")
    stored = read_stored(source, headers_only=True)
    found = source_of(stored, source)
    located = locate_tensors(source)
    tensors = transformers_tensors(located, str(source))
    # In the dtype in which they are stored.
    periods = located["rope_embed.periods"].load() if "rope_embed.periods" in located else periods_in(stored.metadata)
    if to == "meta":
        layout = _META[found.architecture.family]
        if layout is META_DINOV3_VIT and periods is None:
            periods = _periods(entry_of(found), float(found.model_config.get("rope_theta", 100)))
        write_pickle(destination, meta_tensors(tensors, layout, rope_periods=periods, source=str(source)))
        return destination
    entry = entry_of(found)
    with_key_bias = any(name.endswith(".attention.k_proj.bias") for name in tensors)
    architecture = replace(found.architecture, key_bias=with_key_bias)
    with torch.device("meta"):
        model = build_model(architecture, num_heads=entry.num_heads, settings=found.model_config)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    preprocessor = preprocessor_config(
        _HUB_SIZE, entry.image_mean, entry.image_std, processor=_PROCESSORS[entry.family]
    )
    metadata = {} if periods is None else {ROPE_PERIODS: _as_json(periods)}
    with atomic_folder(destination) as folder:
        for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
            write_text_atomic(folder / name, json.dumps(content, indent=2, sort_keys=True) + "\n")
        write_safetensors(folder / "model.safetensors", tensors, metadata)
    return destination


def _as_json(periods: Tensor) -> str:
    dtype = str(periods.dtype).removeprefix("torch.")
    return json.dumps({"dtype": dtype, "values": periods.double().tolist()})


def _periods(entry: EncoderConfig, base: float) -> Tensor:
    """Return the RoPE periods by the formula, in float32, as Meta computes them."""
    quarter = entry.embed_dim // entry.num_heads // 4
    return base ** (torch.arange(quarter, dtype=torch.float32) / quarter)


def preprocessor_config(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], *, processor: str
) -> dict[str, Any]:
    """Return what `preprocessor_config.json` says of a square input that images are stretched to.

    Args:
        size: Side in pixels.
        mean: Per channel, for pixels in [0, 1].
        std: Per channel, for pixels in [0, 1].
        processor: transformers' name of the image processor.
    """
    return {
        "image_processor_type": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
