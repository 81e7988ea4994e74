import pytest

from no_time_to_train.configs.parsing import as_config, settings_of
from no_time_to_train.configs.pipeline import (
    AmgConfig,
    EncoderConfigArgs,
    MatcherConfig,
    MemoryBankConfig,
    Sam2InferConfig,
)
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching.debias import DebiasConfig


def test_dataclass_mapping_and_nothing() -> None:
    config = Sam2InferConfig(points_per_side=8)
    assert as_config(Sam2InferConfig, config, "x") is config
    assert as_config(Sam2InferConfig, {"points_per_side": 8}, "x") == config
    assert as_config(Sam2InferConfig, None, "x") == Sam2InferConfig()


def test_nested_mapping() -> None:
    given = {"debias": {"enabled": True, "components": 7}}
    debias = DebiasConfig(enabled=True, components=7)
    assert as_config(MemoryBankConfig, given, "memory_bank_cfg").debias == debias
    assert as_config(MemoryBankConfig, {"debias": debias}, "memory_bank_cfg").debias is debias
    # The caller's mapping is the caller's.
    assert given == {"debias": {"enabled": True, "components": 7}}


def test_settings_that_may_be_missing() -> None:
    settings = {"name": "matching_baseline_noAMG", "sam2_cfg_file": "x", "encoder_cfg": {"name": "small"}}
    given = {**settings, "sam2_infer_cfgs": {"points_per_side": 8}, "sam2_amg_cfg": None}
    config = as_config(MatcherConfig, given, "model_cfg")
    assert config.sam2_infer_cfgs == Sam2InferConfig(points_per_side=8)
    assert config.encoder_cfg == EncoderConfigArgs("small")
    with pytest.raises(ConfigError, match=r"model_cfg.sam2_infer_cfgs has no setting colour"):
        as_config(MatcherConfig, {**settings, "sam2_infer_cfgs": {"colour": "red"}}, "model_cfg")
    with pytest.raises(ConfigError, match=r"model_cfg.encoder_cfg is null"):
        as_config(MatcherConfig, {**settings, "encoder_cfg": None}, "model_cfg")


def test_unknown_and_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"encoder_cfg has no setting colour.*img_size"):
        as_config(EncoderConfigArgs, {"name": "small", "colour": "red"}, "encoder_cfg")
    with pytest.raises(ConfigError, match=r"memory_bank_cfg.debias has no setting on"):
        as_config(MemoryBankConfig, {"debias": {"on": True}}, "memory_bank_cfg")
    with pytest.raises(ConfigError, match=r"encoder_cfg is incomplete.*name"):
        as_config(EncoderConfigArgs, None, "encoder_cfg")


@pytest.mark.parametrize(
    ("cls", "setting", "value"),
    [
        (Sam2InferConfig, "points_per_side", 0),
        (Sam2InferConfig, "testing_point_bs", 0),
        (Sam2InferConfig, "num_out_instance", -1),
        (Sam2InferConfig, "iou_thr", 1.1),
        (Sam2InferConfig, "nms_thr", -0.1),
        (MemoryBankConfig, "crop_scale", 0.9),
        (MemoryBankConfig, "negative_sigma", 0.0),
        (AmgConfig, "points_per_side", 0),
    ],
)
def test_settings_out_of_range_are_named(cls: type, setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is {value}"):
        as_config(cls, {setting: value}, "settings")


@pytest.mark.parametrize(
    ("cls", "setting", "value"),
    [
        (Sam2InferConfig, "points_per_side", 1),
        (Sam2InferConfig, "iou_thr", 0.0),
        (Sam2InferConfig, "iou_thr", 1.0),
        (Sam2InferConfig, "nms_thr", 1.0),
        (MemoryBankConfig, "crop_scale", 1.0),
    ],
)
def test_the_ends_of_the_ranges_are_within(cls: type, setting: str, value: float) -> None:
    assert getattr(as_config(cls, {setting: value}, "settings"), setting) == value


def test_what_is_no_number_is_in_no_range() -> None:
    with pytest.raises(ConfigError, match="crop_scale is nan"):
        MemoryBankConfig(crop_scale=float("nan"))
    with pytest.raises(ConfigError, match="iou_thr is nan"):
        Sam2InferConfig(iou_thr=float("nan"))


@pytest.mark.parametrize("value", [Sam2InferConfig(points_per_side=4), [1], "text"])
def test_settings_of_another_type_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="sam2_amg_cfg is of type"):
        as_config(AmgConfig, value, "sam2_amg_cfg")


@pytest.mark.parametrize("value", [None, True])
def test_nested_settings_of_another_type_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"memory_bank_cfg\.debias is"):
        as_config(MemoryBankConfig, {"debias": value}, "memory_bank_cfg")


def test_a_crop_without_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        MemoryBankConfig(crop_scale=float("inf"))


def test_a_resizing_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of stretch, keep_ratio"):
        EncoderConfigArgs("dinov3_small", resize_policy="crop")  # type: ignore[arg-type] # that is the point


def test_settings_of_a_yaml() -> None:
    settings = {"sam2_cfg_file": "sam2_hiera_t.yaml"}
    assert settings_of({"model": {"init_args": {"model_cfg": settings}}}) == settings
    for wrong in ({}, {"model": None}, {"model": {"init_args": {"model_cfg": 3}}}):
        with pytest.raises(ConfigError, match="model_cfg"):
            settings_of(wrong)
