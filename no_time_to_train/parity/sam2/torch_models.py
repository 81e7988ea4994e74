"""transformers' SAM2 of the weights that an Equinox model is made of."""

import torch

from no_time_to_train.configs.sam2 import SAM2_CONFIGS
from no_time_to_train.jax_models.sam2.load import CONFIG, Sam2Source
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config, to_transformers
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from no_time_to_train.proposers.sam2.weights import load_sam2


def load_torch_sam2(source: Sam2Source) -> Sam2Predictor:
    """Build the torch model in float32, from its folder's `config.json` or as the released model of its sizes.

    Raises:
        ConfigError: The `config.json` is not one of SAM2.
        KeyMismatchError: Tensors are missing or unknown.
    """
    stated = source.file.files[0].parent / CONFIG
    released = [config for config in SAM2_CONFIGS.values() if config.shape == source.architecture.shape]
    # As `read_sam2_source` reads the architecture.
    if stated.is_file() and (source.layout == "transformers" or not released):
        config = resolve_sam2_config(stated)
    else:
        config = to_transformers(released[0])
    return Sam2Predictor(load_sam2(config, source.path, dtype=torch.float32, device="cpu"))
