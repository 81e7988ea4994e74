"""The matching baseline over a grid of point prompts.

Source: the method of no-time-to-train, arXiv 2507.02798 ("matching_baseline_noAMG"). With protocol `published`, results
are those of its code at 214fc79; the Fidelity page of the documentation has the evidence and the limits.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.pipeline import (
    EncoderConfigArgs,
    FeatureCacheConfig,
    MemoryBankConfig,
    Precision,
    ProtocolName,
    Sam2InferConfig,
    as_config,
)
from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.models.cache.feature_cache import content_key
from no_time_to_train.models.protocols import PUBLISHED, check_published, protocol_of
from no_time_to_train.proposers.base import ImageEmbedding, Prompts, SelectedMasks
from no_time_to_train.proposers.prior_guided import PriorSearch
from no_time_to_train.proposers.sam2.original_decoding import decode_as_original


class Sam2MatchingBaseline_noAMG(MatchingBaseline):
    """One mask per prompt, the best of SAM2's three, matched by `match_masks`; prompts on a grid, or by the references.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        sam2_infer_cfgs: The grid and what is kept of its masks.
        encoder_cfg: Which encoder, and at which size.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        memory_bank_cfg: How references become memory.
        random_init: Draw random weights, with a warning, for whatever has none.
        precision: What images are encoded and embedded in; prompts and matching stay in fp32.
        feature_cache: Where features are kept from run to run.
        protocol: Whose rules around the matching step: the original's with `published`, this project's with `improved`.

    Raises:
        ConfigError: A setting that the original does not have, with protocol `published`.
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
        precision: Precision = "fp32",
        feature_cache: FeatureCacheConfig | Mapping[str, Any] | None = None,
        protocol: ProtocolName = "improved",
    ) -> None:
        infer_cfgs = as_config(Sam2InferConfig, sam2_infer_cfgs, "sam2_infer_cfgs")
        encoder_cfg = as_config(EncoderConfigArgs, encoder_cfg, "encoder_cfg")
        memory_bank_cfg = as_config(MemoryBankConfig, memory_bank_cfg, "memory_bank_cfg")
        if protocol_of(protocol) is PUBLISHED:
            check_published(encoder_cfg, memory_bank_cfg, infer_cfgs)
        super().__init__(
            sam2_cfg_file,
            sam2_ckpt_path,
            encoder_cfg=encoder_cfg,
            encoder_ckpt_path=encoder_ckpt_path,
            memory_bank_cfg=memory_bank_cfg,
            random_init=random_init,
            precision=precision,
            feature_cache=feature_cache,
            protocol=protocol,
        )
        self.sam2_infer_cfgs = infer_cfgs

    @torch.inference_mode()
    def propose_one(self, embedding: ImageEmbedding, patches: Float[Tensor, "h w D"]) -> SelectedMasks:
        """Return SAM2's best mask of each prompt, but for those of too low a predicted IoU."""
        cfg, size = self.sam2_infer_cfgs, self.sam2.image_size
        # On a GPU the original's own kernels round as they please.
        if self.protocol.original_decoding and self.sam2.device.type == "cpu":
            points = self.protocol.points(cfg.points_per_side, size)
            return decode_as_original(
                self.sam2.model, embedding.to(self.sam2.device, self.sam2.dtype), points, min_iou=cfg.iou_thr
            )
        image = self.sam2.prepare(embedding)

        def ask(points: Float[Tensor, "N 2"]) -> SelectedMasks:
            prompts = Prompts(points=points[:, None])
            return self.sam2.best_masks(image, prompts, min_iou=cfg.iou_thr, batch_size=cfg.testing_point_bs)

        if cfg.prompt_selection == "grid":
            return ask(self.protocol.points(cfg.points_per_side, size))
        search = PriorSearch(cfg.points_per_side, cfg.max_prompts, cfg.prior_threshold)
        return search(patches, self._filled_memory(), size, ask)

    def _proposal_key(self) -> str:
        cfg = self.sam2_infer_cfgs
        key = f"{cfg.prompt_selection} {cfg.points_per_side} {cfg.iou_thr}"
        if cfg.prompt_selection == "grid":
            return key
        # Where prompts go depends on the references, and on all that makes features of the image.
        references = content_key(self._filled_memory().prototypes)
        return f"{key} {cfg.max_prompts} {cfg.prior_threshold} {references} {self._memory_key}"

    @cached_property
    def _memory_key(self) -> str:
        return self.memory_fingerprint

    def match(
        self, patches: Float[Tensor, "h w D"], proposals: SelectedMasks, image_size: tuple[int, int]
    ) -> Instances:
        """Match proposals with the memory, by the features of the same image, whose height and width are given."""
        return self.match_with(self._filled_memory(), patches, proposals, image_size)

    def match_with(
        self,
        memory: MemoryBank,
        patches: Float[Tensor, "h w D"],
        proposals: SelectedMasks,
        image_size: tuple[int, int],
    ) -> Instances:
        """Match proposals with another memory than the one in use, by features of its kind."""
        return match_masks(
            patches,
            proposals.mask_logits,
            proposals.predicted_iou,
            memory,
            image_size=image_size,
            nms_threshold=self.sam2_infer_cfgs.nms_thr,
            max_instances=self.sam2_infer_cfgs.num_out_instance,
            negative_sigma=self.memory_bank_cfg.negative_sigma,
            pool=self.protocol.pool,
        )
