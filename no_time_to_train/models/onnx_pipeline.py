"""The method with its networks in ONNX Runtime and all else in NumPy: neither torch nor JAX is needed."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.errors import ConfigError, WeightsNotFoundError
from no_time_to_train.models.cache.feature_cache import open_cache
from no_time_to_train.models.feature_extractor import ImageFeatures
from no_time_to_train.models.protocols import IMPROVED
from no_time_to_train.models.steps import PipelineSteps
from no_time_to_train.proposers.sam2.onnx_predictor import OnnxSam2
from no_time_to_train.runtime.encoder import OnnxImageEncoder
from no_time_to_train.runtime.onnx_session import IMAGE_ENCODER_FILE, MODEL_FILE, read_onnx_file
from no_time_to_train.weights.identify import ONNX


class OnnxPipeline(PipelineSteps):
    """References into memory; masks that are proposed for a target matched with it.

    Args:
        config: All settings. The encoder and SAM2 are folders of `ntt export`, as `encoder_cfg.name` and
            `sam2_cfg_file`, or as the paths of their weights.
        device: A provider of ONNX Runtime: `cpu`, `cuda`, `coreml`, `directml` or `openvino`.

    Raises:
        ConfigError: ONNX Runtime does not support a setting, or does not have the provider.
        NoTimeToTrainError: A folder is missing, or holds no whole export.
    """

    runtime = "ONNX Runtime"

    def __init__(self, config: MatcherConfig, device: Any = "cpu") -> None:
        _check_settings(config)
        cache = open_cache(config.feature_cache)
        provider = str(device)
        exported = find_export(config.encoder_cfg.name, config.encoder_ckpt_path, MODEL_FILE, "an encoder")
        file = read_onnx_file(exported / MODEL_FILE)
        encoder = OnnxImageEncoder(file, img_size=config.encoder_cfg.img_size, provider=provider)
        promptable = OnnxSam2(
            find_export(config.sam2_cfg_file, config.sam2_ckpt_path, IMAGE_ENCODER_FILE, "a SAM2"), provider
        )
        features = ImageFeatures(encoder, promptable, config.encoder_cfg.resize_policy, cache)
        self.set_up(config, encoder, promptable, features, IMPROVED)

    def to_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "3 H W"]:
        """Return an image with its channels first."""
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def find_export(name: str, weights: Path | str | None, file: str, what: str) -> Path:
    """Return the folder of an export: what the name says, or where the weights are.

    Args:
        name: A folder, with `onnx:` before it or without; or a name of a model.
        weights: A folder, or a file in it; None if the name is the folder.
        file: What the folder has to hold.
        what: What it is of, for the error.

    Raises:
        WeightsNotFoundError: No folder holds the file.
    """
    tried = [Path(name.removeprefix(ONNX))]
    if weights is not None:
        tried += [Path(weights), Path(weights).parent]
    for folder in tried:
        if (folder / file).is_file():
            return folder
    raise WeightsNotFoundError(
        f"no {file} of {what} in {' or '.join(str(folder) for folder in tried)}, which the runtime onnx needs",
        remedy='name a folder of ntt export, or a bundle; other weights need pip install "no-time-to-train[torch]"',
    )


def _check_settings(config: MatcherConfig) -> None:
    """Refuse settings that an export cannot follow.

    Raises:
        ConfigError: There is one.
    """
    wanted: dict[str, tuple[Any, Any, str]] = {
        "protocol": (config.protocol, "improved", "exports prepare images and decode prompts by improved"),
        "compile": (config.compile, False, "it is of torch"),
        "precision": (config.precision, "fp32", "an export has its own precision: ntt export --precision"),
        "random_init": (config.random_init, False, "an export has its weights"),
    }
    for name, (value, expected, why) in wanted.items():
        if value != expected:
            raise ConfigError(
                f"model_cfg.{name} is {value}, expected {expected} with the runtime onnx: {why}",
                remedy=f"set {name} to {str(expected).lower()}, or use the runtime torch",
            )
