"""The models of `ntt predict`: from YAMLs, from options, or both."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.configs.parsing import as_config, deep_merge, settings_of
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.configs.shipped import find_settings
from no_time_to_train.errors import ConfigError, UnknownEncoderError
from no_time_to_train.io.strict_yaml import read_yaml
from no_time_to_train.models import Runtime, build_pipeline
from no_time_to_train.runtime.bundle import Bundle
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.segmenter import Segmenter
from no_time_to_train.weights.identify import ONNX, identify_encoder, is_file_of_weights
from no_time_to_train.weights.source import read_source

_DEFAULTS = {
    "name": "matching_baseline_noAMG",
    "sam2_cfg_file": "sam2_hiera_t.yaml",
    "encoder_cfg": {"name": "dinov3_base"},
}


def load_settings(
    settings: Sequence[Path] = (),
    *,
    bundle: Bundle | None = None,
    encoder: str | None = None,
    encoder_weights: Path | None = None,
    sam2: str | None = None,
    sam2_weights: Path | None = None,
    random_init: bool = False,
    points_per_side: int | None = None,
    defaults: Mapping[str, Any] = _DEFAULTS,
) -> MatcherConfig:
    """Take the model of YAMLs, with what is given put in the place of what stands there.

    Args:
        settings: YAMLs of the matching baselines; a later one goes over an earlier one, setting by setting. Where they
            name no model, as presets do, they go over DINOv3-B and SAM2-T.
        bundle: A bundle, over whose settings the YAMLs go; its networks stay.
        encoder: An encoder in the place of the YAML's, whose weights and size then do not count.
        encoder_weights: Its weights.
        sam2: A SAM2 configuration in the place of the YAML's, whose weights then do not count.
        sam2_weights: Its weights.
        random_init: Draw random weights for whatever has none.
        points_per_side: Of the grid, in the place of the YAML's.
        defaults: The models where the YAMLs name none.

    Raises:
        DataNotFoundError: There is no such YAML.
        ConfigError: A YAML is malformed, or has no model.
    """
    config: dict[str, Any] = functools.reduce(deep_merge, map(_read, settings), {})
    if bundle is not None:
        config = deep_merge(bundle.settings, config)
        config["sam2_cfg_file"] = bundle.settings["sam2_cfg_file"]
        config["encoder_cfg"]["name"] = bundle.settings["encoder_cfg"]["name"]
    elif "name" not in config:
        config = deep_merge(defaults, config)
    if encoder is not None:
        own = config.get("encoder_cfg")
        own = own if isinstance(own, dict) else {}
        size = own.get("img_size") if _takes_any_size_of(encoder, own.get("name")) else None
        config["encoder_cfg"] = {**own, "name": encoder, "img_size": size}
        config["encoder_ckpt_path"] = None
    if sam2 is not None:
        config["sam2_cfg_file"], config["sam2_ckpt_path"] = sam2, None
    for key, given in (("encoder_ckpt_path", encoder_weights), ("sam2_ckpt_path", sam2_weights)):
        if given is not None:
            config[key] = given
    if random_init:
        config["random_init"] = True
    if points_per_side is not None:
        key = "sam2_amg_cfg" if config["name"] == "matching_baseline" else "sam2_infer_cfgs"
        grid = config.get(key)
        config[key] = {**(grid if isinstance(grid, dict) else {}), "points_per_side": points_per_side}
    return as_config(MatcherConfig, config, "model_cfg")


def build_segmenter(config: MatcherConfig, device: str, runtime: Runtime | None = None) -> Segmenter:
    """Build what was chosen; see `build_pipeline`."""
    return Segmenter.of(build_pipeline(config, device, runtime))


def _takes_any_size_of(encoder: str, other: Any) -> bool:
    """Return whether an encoder is the same as another, by name, and takes images of whatever size that one does."""
    if encoder.startswith(ONNX):
        file = read_onnx_file(encoder.removeprefix(ONNX))
        name = file.config.name if file.image_size is None else None
    elif is_file_of_weights(encoder):
        name = identify_encoder(read_source(encoder, verify=False)).name
    else:
        name = resolve_encoder(encoder).name
    try:
        return name is not None and name == resolve_encoder(str(other)).name
    except UnknownEncoderError:
        return False


def _read(named: Path) -> dict[str, Any]:
    path = find_settings(named)
    document = read_yaml(path)
    try:
        return dict(settings_of(document))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", remedy=error.remedy) from error
