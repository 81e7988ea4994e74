"""The matching baseline over a grid of point prompts: the published method.

Source: no-time-to-train, arXiv 2507.02798.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.models.configs import EncoderConfigArgs, MemoryBankConfig, Sam2InferConfig, as_config
from no_time_to_train.models.sam2 import Prompts, SelectedMasks, point_grid


class Sam2MatchingBaseline_noAMG(MatchingBaseline):
    """One mask per point of a grid, the best of SAM2's three, matched by `match_masks`.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_infer_cfgs: The grid and what is kept of its masks.
        encoder_cfg: Which encoder, and at which size.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        memory_bank_cfg: How references become memory.
        random_init: Draw random weights, with a warning, for whatever has none.
    """

    def __init__(
        self,
        sam2_cfg_file: str,
        sam2_ckpt_path: Path | str | None = None,
        sam2_infer_cfgs: Sam2InferConfig | Mapping[str, Any] | None = None,
        *,
        encoder_cfg: EncoderConfigArgs | Mapping[str, Any],
        encoder_ckpt_path: Path | str | None = None,
        memory_bank_cfg: MemoryBankConfig | Mapping[str, Any] | None = None,
        random_init: bool = False,
    ) -> None:
        self_cfg = as_config(Sam2InferConfig, sam2_infer_cfgs, "sam2_infer_cfgs")
        super().__init__(
            sam2_cfg_file,
            sam2_ckpt_path,
            encoder_cfg=encoder_cfg,
            encoder_ckpt_path=encoder_ckpt_path,
            memory_bank_cfg=memory_bank_cfg,
            random_init=random_init,
        )
        self.sam2_infer_cfgs = self_cfg

    def predict(self, image: UInt8[Tensor, "3 H W"]) -> Instances:
        """Find the instances of the memory's classes in an image (RGB)."""
        memory = self._filled_memory()
        return self.match(self.encode(image), self.propose(image), memory, (image.shape[1], image.shape[2]))

    @torch.inference_mode()
    def propose(self, image: UInt8[Tensor, "3 H W"]) -> SelectedMasks:
        """Return SAM2's best mask of each point of the grid, but for those of too low a predicted IoU."""
        cfg = self.sam2_infer_cfgs
        embedding = self.sam2.embed(self.sam2.preprocess(image))
        points = point_grid(cfg.points_per_side, self.sam2.image_size)[:, None]
        return self.sam2.best_masks(
            embedding, Prompts(points=points), min_iou=cfg.iou_thr, batch_size=cfg.testing_point_bs
        )

    def match(
        self,
        patches: Float[Tensor, "h w D"],
        proposals: SelectedMasks,
        memory: MemoryBank,
        image_size: tuple[int, int],
    ) -> Instances:
        """Match proposals with a memory, by the features of the same image, whose height and width are given."""
        return match_masks(
            patches,
            proposals.mask_logits,
            proposals.predicted_iou,
            memory,
            image_size=image_size,
            nms_threshold=self.sam2_infer_cfgs.nms_thr,
            max_instances=self.sam2_infer_cfgs.num_out_instance,
            negative_sigma=self.memory_bank_cfg.negative_sigma,
        )
