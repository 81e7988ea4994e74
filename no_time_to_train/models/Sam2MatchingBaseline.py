"""The pipeline with automatic masks, by keyword arguments; see `models.pipeline`."""

from pathlib import Path
from typing import Any

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.models.pipeline import MatchingPipeline


class Sam2MatchingBaseline(MatchingPipeline):
    """Automatic masks with stability filtering, each paired with each class; there is one protocol, `improved`.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_amg_cfg: Settings of the automatic mask generator.
        settings: More of `MatcherConfig`'s settings by name, as dataclasses or mappings; `encoder_cfg` is needed.

    Raises:
        NoTimeToTrainError: Weights are missing or do not fit, or a name or a setting is unknown.
    """

    def __init__(
        self, sam2_cfg_file: str, sam2_ckpt_path: Path | str | None = None, sam2_amg_cfg: Any = None, **settings: Any
    ) -> None:
        settings |= {
            "name": "matching_baseline",
            "sam2_cfg_file": sam2_cfg_file,
            "sam2_ckpt_path": sam2_ckpt_path,
            "sam2_amg_cfg": sam2_amg_cfg,
        }
        super().__init__(MatcherConfig.from_settings(**settings))
