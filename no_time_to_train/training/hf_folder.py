"""Writing a trained model as a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from no_time_to_train.io.atomic import atomic_files
from no_time_to_train.weights.hf_config import CONFIG, PREPROCESSOR, write_json


def save_folder(
    folder: Path, tensors: Mapping[str, Tensor], *, config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors`, which is never beside others' settings.

    Args:
        folder: Where to write; made if it is missing.
        tensors: By the names of the Hub's files; floating-point ones are stored in float16, to be small.
        config: The model's configuration. The file states float32, in which transformers is to open the weights.
        preprocessor: How its images are prepared.

    Raises:
        OutputError: The folder cannot be written to.
    """
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().clone().contiguous()
        for name, tensor in tensors.items()
    }
    with atomic_files(folder, last="model.safetensors") as beside:
        write_json(beside / CONFIG, {**config, "dtype": "float32"})
        write_json(beside / PREPROCESSOR, preprocessor)
        save_file(halves, beside / "model.safetensors", metadata={"format": "pt"})


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalise images (B, 3, H, W) in [0, 1] by the mean and deviation of each channel."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]
