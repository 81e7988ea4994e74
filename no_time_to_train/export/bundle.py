"""`ntt export-pipeline`: both networks as ONNX in one folder, with the settings and the memory that go with them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from no_time_to_train import __version__
from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.configs.pipeline import FeatureCacheConfig, MatcherConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.graph_file import Precision
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.io.atomic import atomic_folder
from no_time_to_train.matching import MemoryBank
from no_time_to_train.models.onnx_pipeline import OnnxPipeline
from no_time_to_train.runtime.bundle import (
    ENCODER_FOLDER,
    FORMAT,
    MEMORY_FILE,
    SAM2_FOLDER,
    SETTINGS_FILE,
    read_bundle,
)
from no_time_to_train.weights.identify import ONNX, is_file_of_weights


def export_bundle(
    config: MatcherConfig,
    output: Path | str,
    *,
    precision: Precision = "fp32",
    opset: int = 23,
    memory: Path | None = None,
    verify: bool = True,
) -> Path:
    """Write a pipeline as a folder that ONNX Runtime runs without torch.

    Args:
        config: Of the pipeline, with weights for both networks.
        output: The folder; one that this wrote before is replaced.
        precision: Of the two image encoders; prompts are always decoded in fp32.
        opset: See `export_onnx`.
        memory: A file of references, filled with the same encoder and settings.
        verify: Whether to compare the files with the Equinox models.

    Returns:
        The folder.

    Raises:
        ConfigError: The settings have something that exports cannot follow.
        EncoderMismatchError: The memory was filled with another encoder, or with other settings.
        NoTimeToTrainError: Weights are missing or damaged, or a file drifts; nothing is left then.
    """
    settings = _settings(config)
    encoder, encoder_weights = _encoder(config)
    sam2 = config.sam2_cfg_file if config.sam2_ckpt_path is None else config.sam2_ckpt_path
    target = Path(output)
    if target.exists() and any(target.iterdir()) and not (target / SETTINGS_FILE).is_file():
        raise ConfigError(f"{target} holds something else than a bundle", remedy="name another folder, or empty it")
    with atomic_folder(target) as folder:
        export_onnx(encoder, encoder_weights, folder / ENCODER_FOLDER, precision=precision, opset=opset, verify=verify)
        export_onnx(sam2, None, folder / SAM2_FOLDER, precision=precision, opset=opset, verify=verify)
        write_settings(settings, folder)
        # What is handed out opens, and the memory fits it.
        pipeline = OnnxPipeline(MatcherConfig.from_settings(**read_bundle(folder).settings))
        if memory is not None:
            bank = MemoryBank.load(memory, encoder_fingerprint=pipeline.memory_fingerprint)
            bank.finalize()
            bank.save(folder / MEMORY_FILE)
    return target


def write_settings(settings: dict[str, Any], folder: Path) -> None:
    """Write a bundle's settings file."""
    document = {
        "format": FORMAT,
        "no_time_to_train": __version__,
        "model": {"init_args": {"model_cfg": settings}},
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (folder / SETTINGS_FILE).write_text(f"# ntt predict --bundle runs this folder.\n{text}", encoding="utf-8")


def _settings(config: MatcherConfig) -> dict[str, Any]:
    """Return the settings that a bundle keeps: all that decides what is found, but not where weights were.

    Raises:
        ConfigError: There is one that an export cannot follow.
    """
    if config.protocol != "improved":
        raise ConfigError(
            f"model_cfg.protocol is {config.protocol}, and exports prepare images and decode prompts by improved",
            remedy="set protocol to improved",
        )
    if config.random_init:
        raise ConfigError("model_cfg.random_init is true, and a bundle needs weights", remedy="name the weights")
    kept = replace(
        config,
        encoder_ckpt_path=None,
        sam2_ckpt_path=None,
        feature_cache=FeatureCacheConfig(),
        precision="fp32",
        compile=False,
        sam2_cfg_file=SAM2_FOLDER,
        encoder_cfg=replace(config.encoder_cfg, name=ENCODER_FOLDER),
    )
    settings = _without_none(asdict(kept))
    settings.pop("feature_cache")
    return settings


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _encoder(config: MatcherConfig) -> tuple[str, Path | None]:
    name, weights = config.encoder_cfg.name, config.encoder_ckpt_path
    if name.startswith(ONNX):
        raise ConfigError(
            f"the encoder {name} is exported already", remedy="name the weights that it was exported from"
        )
    if weights is not None or is_file_of_weights(name):
        return name, weights
    entry = resolve_encoder(name, prefer_plus=config.encoder_cfg.prefer_plus)
    return entry.name, weights_at_hand(entry)
