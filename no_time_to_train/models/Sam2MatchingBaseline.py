"""The matching baseline over SAM2's automatic masks.

Source: no-time-to-train, arXiv 2507.02798 ("matching_baseline").
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from no_time_to_train.matching import Instances
from no_time_to_train.matching.instances import match_mask_pairs
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.models.configs import EncoderConfigArgs, MemoryBankConfig, as_config
from no_time_to_train.models.mask_generator import AmgConfig, AutomaticMaskGenerator


class Sam2MatchingBaseline(MatchingBaseline):
    """SAM2's automatic masks with stability filtering, each paired with each class.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_amg_cfg: Settings of the automatic mask generator.
        encoder_cfg: Which encoder, and at which size.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        memory_bank_cfg: How references become memory.
        max_instances: Most instances an image.
        random_init: Draw random weights, with a warning, for whatever has none.
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
    ) -> None:
        amg_cfg = as_config(AmgConfig, sam2_amg_cfg, "sam2_amg_cfg")
        super().__init__(
            sam2_cfg_file,
            sam2_ckpt_path,
            encoder_cfg=encoder_cfg,
            encoder_ckpt_path=encoder_ckpt_path,
            memory_bank_cfg=memory_bank_cfg,
            random_init=random_init,
        )
        self.max_instances = max_instances
        self.mask_generator = AutomaticMaskGenerator.from_config(self.sam2, amg_cfg)

    @property
    def normalizes_patches(self) -> bool:
        """Patch features are L2-normalised before they are averaged."""
        return True

    @torch.inference_mode()
    def predict(self, image: UInt8[Tensor, "3 H W"]) -> Instances:
        """Find the instances of the memory's classes in an image (RGB)."""
        memory = self._filled_memory()
        patches = self.encode(image)
        found = self.mask_generator(self.sam2.embed(self.sam2.preprocess(image)))
        return match_mask_pairs(
            patches,
            found.mask_logits,
            memory,
            image_size=(image.shape[1], image.shape[2]),
            max_instances=self.max_instances,
            negative_sigma=self.memory_bank_cfg.negative_sigma,
        )
