"""The settings of the matching baselines, as they stand in YAML."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from no_time_to_train.configs.image_size import LONGEST_SIDE
from no_time_to_train.configs.limits import MOST_IN_BATCH, TOGETHER, check_number
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import nearest
from no_time_to_train.io.paths import check_local

T = TypeVar("T")

MOST_POINTS_PER_SIDE = 1024

ResizePolicy = Literal["stretch", "keep_ratio"]
Precision = Literal["fp32", "bf16"]
PromptSelection = Literal["grid", "prior"]
ProtocolName = Literal["published", "improved"]


@dataclass(frozen=True)
class EncoderConfigArgs:
    """Which encoder, and how images come to it.

    Attributes:
        name: Any name that the registry knows, such as `dinov3_large` or `dinov2_base`; or a weights file or folder,
            whose tensors tell the architecture; or `onnx:` and a folder of `ntt export`.
        img_size: Side in pixels of the square input, or the longer side with `keep_ratio`; the encoder's default if
            None, which is a 37x37 patch grid for the ViTs.
        resize_policy: `stretch` brings every image to the square, as the original does; `keep_ratio` brings its longer
            side to `img_size` and rounds both sides to the patch size.
        prefer_plus: Take the plus variant where its weights lie under `checkpoints/`.
    """

    name: str
    img_size: int | None = None
    resize_policy: ResizePolicy = "stretch"
    prefer_plus: bool = False

    def __post_init__(self) -> None:
        check_number("encoder_cfg.img_size", self.img_size, 1, LONGEST_SIDE, "its patches are compared with each other")
        policies = get_args(ResizePolicy)
        if self.resize_policy not in policies:
            raise ConfigError(
                f"encoder_cfg.resize_policy is {self.resize_policy!r}, expected one of {', '.join(policies)}",
                remedy="correct it in the YAML",
            )


@dataclass(frozen=True)
class DebiasConfig:
    """Positional debiasing, as set in YAML.

    Attributes:
        enabled: Whether it is done.
        components: Leading components that are removed; in the published proportion to the width when None.
    """

    enabled: bool = False
    components: int | None = None

    def __post_init__(self) -> None:
        check_number("debias.components", self.components, 1, 2**16, "no encoder's features are as wide")


@dataclass(frozen=True)
class MemoryBankConfig:
    """How references become memory.

    Attributes:
        crop_scale: Side of the square cut out around a reference, as a multiple of its box's longer side.
        negative_sigma: How softly negative references count; smaller is harder.
        debias: Removal of the positional component from all features.
    """

    crop_scale: float = 1.2
    negative_sigma: float = 0.8
    debias: DebiasConfig = field(default_factory=DebiasConfig)

    def __post_init__(self) -> None:
        _require(
            1 <= self.crop_scale < math.inf, "memory_bank_cfg.crop_scale", self.crop_scale, "at least 1, and finite"
        )
        _require(self.negative_sigma > 0, "memory_bank_cfg.negative_sigma", self.negative_sigma, "more than 0")


@dataclass(frozen=True)
class Sam2InferConfig:
    """How a grid of points is put to SAM2, and what is kept of its masks.

    Attributes:
        points_per_side: Points along each side of the image; 32 gives 1024 prompts.
        testing_point_bs: Most prompts decoded at a time; a CPU takes 16, which its cache holds, a GPU this many.
        iou_thr: Masks of this predicted IoU or less are left out.
        nms_thr: Box IoU above which the mask of lower predicted IoU goes, within a class.
        num_out_instance: Most instances an image.
        prompt_selection: `grid` puts a prompt on every point, as the original does; `prior` only where the image
            resembles the references, from coarse to fine, until nothing new is found.
        max_prompts: Most prompts an image, with `prior`.
        prior_threshold: Least resemblance of a prompt's point to the references, with `prior`: 0 is the median over
            the image, 1 its best.
    """

    points_per_side: int = 32
    testing_point_bs: int = 128
    iou_thr: float = 0.4
    nms_thr: float = 0.5
    num_out_instance: int = 100
    prompt_selection: PromptSelection = "grid"
    max_prompts: int = 128
    prior_threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.prompt_selection not in get_args(PromptSelection):
            raise ConfigError(
                f"sam2_infer_cfgs.prompt_selection is {self.prompt_selection!r}, expected grid or prior",
                remedy="correct it in the YAML",
            )
        for name, most, why in (
            ("points_per_side", MOST_POINTS_PER_SIDE, "a grid of n points a side is n times n prompts an image"),
            ("testing_point_bs", MOST_IN_BATCH, TOGETHER),
            ("num_out_instance", MOST_IN_BATCH, "every instance is a mask of the image's size"),
            ("max_prompts", MOST_POINTS_PER_SIDE**2, "every prompt is decoded"),
        ):
            check_number(f"sam2_infer_cfgs.{name}", getattr(self, name), 1, most, why)
        for name in ("iou_thr", "nms_thr", "prior_threshold"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"sam2_infer_cfgs.{name}", value, "between 0 and 1")


@dataclass(frozen=True)
class FeatureCacheConfig:
    """Where features are kept from run to run.

    Attributes:
        folder: Features, SAM2's embeddings and the masks that it proposed are kept here, by the image's content and
            the weights; None keeps nothing.
        max_gb: Most that all of it takes, in 10^9 bytes; what was used longest ago goes first. An image takes some
            20 MB.
    """

    folder: Path | None = None
    max_gb: float = 20.0

    def __post_init__(self) -> None:
        if self.folder == Path("None"):
            # jsonargparse 4.53 hands a null of the command line on as this text at this depth.
            object.__setattr__(self, "folder", None)
        if self.folder is not None:
            check_local(self.folder, "feature_cache.folder")
        _require(0 < self.max_gb < math.inf, "feature_cache.max_gb", self.max_gb, "more than 0, and finite")


def settings_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model's settings in a YAML of the main job.

    Raises:
        ConfigError: It has none.
    """
    found: Any = document
    for key in ("model", "init_args", "model_cfg"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise ConfigError(
            "the configuration has no model.init_args.model_cfg", remedy="name a YAML of the matching baselines"
        )
    return found


def as_config(cls: type[T], value: T | Mapping[str, Any] | None, name: str) -> T:
    """Take settings as a dataclass, as a mapping, or as None for the defaults.

    Raises:
        ConfigError: A key that the dataclass does not have, or one that it needs and the mapping lacks, or a value of
            another type.
    """
    if isinstance(value, cls):
        return value
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(
            f"{name} is of type {type(value).__name__}, expected {cls.__name__} or a mapping",
            remedy="give its settings by name",
        )
    given = dict(value or {})
    known = {entry.name for entry in fields(cls)}  # type: ignore[arg-type] # every cls here is a dataclass
    unknown = sorted(map(str, given.keys() - known))
    if unknown:
        listed = f"{nearest(unknown[0], sorted(known))}it has {', '.join(sorted(known))}"
        raise ConfigError(f"{name} has no setting {', '.join(unknown)}", remedy=listed)
    hints = get_type_hints(cls)
    for key, entry in given.items():
        # Of `X | None` the X.
        kinds = [kind for kind in (hints[key], *get_args(hints[key])) if is_dataclass(kind)]
        if kinds and entry is None and is_dataclass(hints[key]):
            raise ConfigError(f"{name}.{key} is null", remedy="leave it out for the defaults")
        if kinds and entry is not None:
            given[key] = as_config(kinds[0], entry, f"{name}.{key}")  # type: ignore[arg-type] # a class, not an instance
        elif not kinds and not _fits(entry, hints[key]):
            raise ConfigError(
                f"{name}.{key} is {entry!r:.60}, expected {_described(hints[key])}", remedy="correct it in the YAML"
            )
    try:
        return cls(**given)
    except TypeError as error:
        raise ConfigError(f"{name} is incomplete: {error}", remedy=f"it has {', '.join(sorted(known))}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value as YAML gives it is of an annotated type."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if kind is Literal:
        return value in get_args(hint)
    accepted = {float: (int, float), Path: (str, Path), tuple: (list, tuple)}.get(kind, kind)
    # True and False are integers to Python, and to nobody else.
    return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType, Literal):
        return " or ".join(str(part) if kind is Literal else _described(part) for part in get_args(hint))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return "null" if kind is NoneType else words.get(kind, str(hint))


def _require(condition: bool, name: str, value: float, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value}, expected {expected}", remedy="correct it in the YAML")
