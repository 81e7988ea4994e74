"""The settings of a matching baseline as they stand in a YAML, and the baseline that they name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from no_time_to_train.configs.pipeline import (
    EncoderConfigArgs,
    FeatureCacheConfig,
    MemoryBankConfig,
    Precision,
    ProtocolName,
    Sam2InferConfig,
)
from no_time_to_train.errors import ConfigError
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.models.protocols import check_published
from no_time_to_train.models.Sam2MatchingBaseline import Sam2MatchingBaseline
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.automatic import AmgConfig


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
        feature_cache: Where features are kept from run to run, and how much of them.
        protocol: Rules around the matching step, for `matching_baseline_noAMG`: `published` has the original's, for
            results that are to be compared with its; `improved` prepares images as the models' authors do, and gives
            COCO's boxes.
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
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    protocol: ProtocolName = "improved"

    def __post_init__(self) -> None:
        for name in ("sam2_ckpt_path", "encoder_ckpt_path"):
            # jsonargparse 4.53 hands a null of the command line on as the text "None" at this depth.
            if getattr(self, name) == Path("None"):
                object.__setattr__(self, name, None)
        foreign = "sam2_infer_cfgs" if self.name == "matching_baseline" else "sam2_amg_cfg"
        if getattr(self, foreign) is not None:
            raise ConfigError(
                f"model_cfg.{foreign} has no place in {self.name}", remedy=f"remove it, or change {foreign}"
            )
        if self.name == "matching_baseline" and self.protocol != "improved":
            raise ConfigError(
                f"model_cfg.protocol is {self.protocol!r:.60} with matching_baseline, of which there is only improved",
                remedy="set name to matching_baseline_noAMG, or leave out protocol",
            )
        if self.protocol == "published":
            check_published(self.encoder_cfg, self.memory_bank_cfg, self.sam2_infer_cfgs or Sam2InferConfig())

    def build(self) -> MatchingBaseline:
        """Build the baseline with its weights.

        Raises:
            NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
        """
        shared: dict[str, Any] = {
            "sam2_cfg_file": self.sam2_cfg_file,
            "sam2_ckpt_path": self.sam2_ckpt_path,
            "encoder_cfg": self.encoder_cfg,
            "encoder_ckpt_path": self.encoder_ckpt_path,
            "memory_bank_cfg": self.memory_bank_cfg,
            "random_init": self.random_init,
            "precision": self.precision,
            "feature_cache": self.feature_cache,
        }
        if self.name == "matching_baseline":
            return Sam2MatchingBaseline(sam2_amg_cfg=self.sam2_amg_cfg, **shared)
        return Sam2MatchingBaseline_noAMG(sam2_infer_cfgs=self.sam2_infer_cfgs, protocol=self.protocol, **shared)
