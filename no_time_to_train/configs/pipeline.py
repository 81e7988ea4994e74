"""The settings of the matching baselines, as they stand in YAML."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from no_time_to_train.configs.image_size import LONGEST_SIDE
from no_time_to_train.configs.limits import MOST_IN_BATCH, TOGETHER, check_number
from no_time_to_train.configs.parsing import as_config
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.paths import check_local

MOST_POINTS_PER_SIDE = 1024
_MOST_PIXELS = 2**31
_EVERY_INSTANCE = "every instance is a mask of the image's size"

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
            ("num_out_instance", MOST_IN_BATCH, _EVERY_INSTANCE),
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


@dataclass(frozen=True)
class AmgConfig:
    """Settings of the automatic mask generator.

    Attributes:
        points_per_side: The grid has this many points along each side of the image.
        points_per_batch: Points that are decoded at a time.
        pred_iou_thresh: Masks need a higher predicted IoU, in [0, 1].
        stability_score_thresh: Masks need at least this stability score, in [0, 1].
        stability_score_offset: The score is the IoU between the mask cut this far above and this far below logit 0.
        box_nms_thresh: Of two masks whose boxes have a higher IoU, the one of higher predicted IoU stays.
        min_mask_region_area: Holes and islands of at most this many mask pixels are filled and wiped; 0 leaves all.

    Raises:
        ConfigError: A setting is out of its range.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for name, lowest, most, why in (
            ("points_per_side", 1, MOST_POINTS_PER_SIDE, "a grid of n points a side is n times n prompts an image"),
            ("points_per_batch", 1, MOST_IN_BATCH, TOGETHER),
            ("min_mask_region_area", 0, _MOST_PIXELS, "no mask has as many pixels"),
        ):
            check_number(name, getattr(self, name), lowest, most, why)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, expected 0 to 1", remedy=f"correct {name}")
        if self.stability_score_offset < 0:
            raise ConfigError(
                f"stability_score_offset is {self.stability_score_offset}, expected 0 or more", remedy="1.0 is usual"
            )


@dataclass(frozen=True)
class MatcherConfig:
    """Which baseline, with which models.

    Attributes:
        name: `matching_baseline` uses SAM2's automatic masks, `matching_baseline_noAMG` a grid of point prompts.
        sam2_cfg_file: Meta's name of a SAM2 configuration, such as `sam2_hiera_l.yaml`, or a Hugging Face folder.
        encoder_cfg: Which encoder, and at which size.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        sam2_amg_cfg: Settings of the automatic mask generator, for `matching_baseline`.
        sam2_infer_cfgs: Settings of the point grid, for `matching_baseline_noAMG`.
        memory_bank_cfg: How references become memory.
        random_init: Draw random weights, with a warning, for whatever has none; for trying the pipeline.
        precision: What images are encoded and embedded in; prompts and matching stay in fp32.
        compile: Compile the encoder and SAM2's image encoder with `torch.compile`: a minute or two at the first images,
            and at the first of every other size, for less time at all that follow.
        feature_cache: Where features are kept from run to run, and how much of them.
        protocol: Rules around the matching step, for `matching_baseline_noAMG`: `published` has the original's, for
            results that are to be compared with its; `improved` prepares images as the models' authors do, and gives
            COCO's boxes.
        max_instances: Most instances an image, for `matching_baseline`; 100 if None. For the point grid it is
            `sam2_infer_cfgs.num_out_instance`.
    """

    name: Literal["matching_baseline", "matching_baseline_noAMG"]
    sam2_cfg_file: str
    encoder_cfg: EncoderConfigArgs
    sam2_ckpt_path: Path | None = None
    encoder_ckpt_path: Path | None = None
    sam2_amg_cfg: AmgConfig | None = None
    sam2_infer_cfgs: Sam2InferConfig | None = None
    memory_bank_cfg: MemoryBankConfig = field(default_factory=MemoryBankConfig)
    random_init: bool = False
    precision: Precision = "fp32"
    compile: bool = False
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    protocol: ProtocolName = "improved"
    max_instances: int | None = None

    def __post_init__(self) -> None:
        for name in ("sam2_ckpt_path", "encoder_ckpt_path"):
            # jsonargparse 4.53 hands a null of the command line on as the text "None" at this depth.
            if getattr(self, name) == Path("None"):
                object.__setattr__(self, name, None)
        automatic = self.name == "matching_baseline"
        for foreign in ("sam2_infer_cfgs",) if automatic else ("sam2_amg_cfg", "max_instances"):
            if getattr(self, foreign) is not None:
                raise ConfigError(
                    f"model_cfg.{foreign} has no place in {self.name}", remedy="remove it, or change name"
                )
        check_number("model_cfg.max_instances", self.max_instances, 1, MOST_IN_BATCH, _EVERY_INSTANCE)
        if automatic and self.protocol != "improved":
            raise ConfigError(
                f"model_cfg.protocol is {self.protocol!r:.60} with matching_baseline, of which there is only improved",
                remedy="set name to matching_baseline_noAMG, or leave out protocol",
            )
        if self.protocol == "published":
            self._check_published()

    def _check_published(self) -> None:
        """Refuse settings that the original does not have, together with its protocol."""
        foreign = {
            "compile": (self.compile, False),
            "encoder_cfg.resize_policy": (self.encoder_cfg.resize_policy, "stretch"),
            "memory_bank_cfg.debias.enabled": (self.memory_bank_cfg.debias.enabled, False),
            "sam2_infer_cfgs.prompt_selection": (self.grid.prompt_selection, "grid"),
        }
        for name, (value, expected) in foreign.items():
            if value != expected:
                raise ConfigError(
                    f"protocol is published and {name} is {str(value).lower()}, which the original does not have",
                    remedy=f"set {name} to {str(expected).lower()}, or protocol to improved",
                )

    @classmethod
    def from_settings(cls, **settings: Any) -> "MatcherConfig":
        """Take settings by name, as dataclasses or mappings; None stands for a default.

        Raises:
            ConfigError: A setting is unknown, missing, or of another type.
        """
        return as_config(cls, {name: value for name, value in settings.items() if value is not None}, "")

    @property
    def grid(self) -> Sam2InferConfig:
        """Settings of the point grid, the defaults where none are set."""
        return self.sam2_infer_cfgs or Sam2InferConfig()


def _require(condition: bool, name: str, value: float, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value}, expected {expected}", remedy="correct it in the YAML")
