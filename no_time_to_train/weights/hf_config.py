"""The JSON files beside the weights in a Hugging Face folder."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.io.atomic import write_text_atomic

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSORS = {
    "dinov3_vit": "DINOv3ViTImageProcessorFast",
    "dinov3_convnext": "DINOv3ViTImageProcessorFast",
    "dinov2": "BitImageProcessorFast",
}
HUB_SIZE = 224  # pixels; what the Hub's own files state


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of them.

    Raises:
        OutputError: It cannot be written.
    """
    write_text_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def common_dtype(tensors: Iterable[Tensor]) -> str:
    """Return the `dtype` of a `config.json`, in which transformers opens a folder: that of all weights, or float32."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else "float32"


def preprocessor_of(entry: EncoderConfig, size: int = HUB_SIZE) -> dict[str, Any]:
    """Return the `preprocessor_config.json` of an encoder; see `preprocessor_config`."""
    return preprocessor_config(size, entry.image_mean, entry.image_std, processor=PROCESSORS[entry.family])


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
