"""The matching baseline over SAM2's automatic masks.

Source: the method of no-time-to-train, arXiv 2507.02798 ("matching_baseline"). Its code at 214fc79 is not imitated: it
adds its mean feature to the memory at every image that it matches, normalises targets twice, and takes features from
before the encoder's last norm.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.pipeline import (
    EncoderConfigArgs,
    FeatureCacheConfig,
    MemoryBankConfig,
    Precision,
    as_config,
)
from no_time_to_train.matching import Instances
from no_time_to_train.matching.instances import match_all_mask_class_pairs
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.proposers.automatic import AmgConfig, AutomaticMaskGenerator
from no_time_to_train.proposers.base import ImageEmbedding, SelectedMasks


class Sam2MatchingBaseline(MatchingBaseline):
    """SAM2's automatic masks with stability filtering, each paired with each class; there is one protocol, `improved`.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_amg_cfg: Settings of the automatic mask generator.
        encoder_cfg: Which encoder, and at which size.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        memory_bank_cfg: How references become memory.
        max_instances: Most instances an image.
        random_init: Draw random weights, with a warning, for whatever has none.
        precision: What images are encoded and embedded in; prompts and matching stay in fp32.
        feature_cache: Where features are kept from run to run.
    """

    def __init__(
        self,
        sam2_cfg_file: str,
        sam2_ckpt_path: Path | str | None = None,
        sam2_amg_cfg: AmgConfig | Mapping[str, Any] | None = None,
        *,
        encoder_cfg: EncoderConfigArgs | Mapping[str, Any],
        encoder_ckpt_path: Path | str | None = None,
        memory_bank_cfg: MemoryBankConfig | Mapping[str, Any] | None = None,
        max_instances: int = 100,
        random_init: bool = False,
        precision: Precision = "fp32",
        feature_cache: FeatureCacheConfig | Mapping[str, Any] | None = None,
    ) -> None:
        amg_cfg = as_config(AmgConfig, sam2_amg_cfg, "sam2_amg_cfg")
        super().__init__(
            sam2_cfg_file,
            sam2_ckpt_path,
            encoder_cfg=encoder_cfg,
            encoder_ckpt_path=encoder_ckpt_path,
            memory_bank_cfg=memory_bank_cfg,
            random_init=random_init,
            precision=precision,
            feature_cache=feature_cache,
        )
        self.max_instances = max_instances
        self.mask_generator = AutomaticMaskGenerator.from_config(self.sam2, amg_cfg)

    @property
    def normalizes_patches(self) -> bool:
        """Patch features are L2-normalised before they are averaged."""
        return True

    def propose_one(self, embedding: ImageEmbedding, patches: Float[Tensor, "h w D"]) -> SelectedMasks:
        """Return SAM2's automatic masks."""
        del patches
        found: SelectedMasks = self.mask_generator(embedding)
        return found

    def _proposal_key(self) -> str:
        return f"automatic {self.mask_generator.config}"

    def match(
        self, patches: Float[Tensor, "h w D"], proposals: SelectedMasks, image_size: tuple[int, int]
    ) -> Instances:
        """Match proposals with the memory, by the features of the same image, whose height and width are given."""
        return match_all_mask_class_pairs(
            patches,
            proposals.mask_logits,
            self._filled_memory(),
            image_size=image_size,
            max_instances=self.max_instances,
            negative_sigma=self.memory_bank_cfg.negative_sigma,
        )
