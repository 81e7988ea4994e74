"""The pipeline with point prompts, by keyword arguments; see `models.pipeline`."""

from pathlib import Path
from typing import Any

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.models.pipeline import MatchingPipeline


class Sam2MatchingBaseline_noAMG(MatchingPipeline):
    """One mask per prompt, the best of three, matched by `match_masks`; prompts on a grid, or by the references.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_infer_cfgs: The grid and what is kept of its masks.
        settings: More of `MatcherConfig`'s settings by name, as dataclasses or mappings; `encoder_cfg` is needed.

    Raises:
        ConfigError: A setting is unknown, or one that the original does not have comes with protocol `published`.
        NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
    """

    def __init__(
        self, sam2_cfg_file: str, sam2_ckpt_path: Path | str | None = None, sam2_infer_cfgs: Any = None, **settings: Any
    ) -> None:
        settings |= {
            "name": "matching_baseline_noAMG",
            "sam2_cfg_file": sam2_cfg_file,
            "sam2_ckpt_path": sam2_ckpt_path,
            "sam2_infer_cfgs": sam2_infer_cfgs,
        }
        super().__init__(MatcherConfig.from_settings(**settings))
