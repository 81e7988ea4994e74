"""Training of the tiny SAM2 that the project ships."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Sam2VisionConfig
from transformers.utils import logging

from no_time_to_train.configs.limits import check_number
from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.proposers.sam2.predictor import build_sam2
from no_time_to_train.proposers.sam2.weights import new_sam2
from no_time_to_train.training.hf_folder import normalised, save_folder
from no_time_to_train.training.quickstart.augmentation import random_view, whole_view
from no_time_to_train.training.quickstart.sam2_losses import MaskLosses, PixelHeads, mask_losses
from no_time_to_train.training.quickstart.sam2_prompts import PromptBatch, draw_prompts
from no_time_to_train.training.scenes_datamodule import SceneBatch
from no_time_to_train.training.scenes_module import QuickstartTraining
from no_time_to_train.weights.hf_config import preprocessor_config

_WEIGHTS = {"mask": 1.0, "iou": 2.0, "object_score": 0.2}


class QuickstartSam2Training(QuickstartTraining):
    """Clicks, pairs of clicks and boxes on synthetic scenes, in one step each.

    Single clicks train the three masks of an ambiguous prompt; boxes and pairs of clicks, in turn, the single mask.

    Args:
        config: Folder or `config.json` of the model to train.
        output: Folder that the trained model is written to.
        init_from: Weights to begin with; None begins with random ones.
        prompts: Single clicks an image; half as many boxes or pairs of clicks.
        learning_rate: Peak of Muon's, for matrices.
        adamw_learning_rate: Peak of AdamW's, for everything else.
        warmup_steps: Steps of the linear rise to the peak.
        smallest_crop: Smallest square cut out of a scene, as a share of its side.
        seed: Of the random weights.

    Raises:
        ConfigError: `config` is not one of SAM2, or a number is out of range.
    """

    def __init__(
        self,
        config: Path,
        output: Path,
        *,
        init_from: Path | None = None,
        prompts: int = 12,
        learning_rate: float = 2e-3,
        adamw_learning_rate: float = 1e-3,
        warmup_steps: int = 200,
        smallest_crop: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(output, learning_rate, adamw_learning_rate, warmup_steps, smallest_crop)
        check_number("model.prompts", prompts, 1, 1024, "an image's prompts are in memory together")
        self.prompts = prompts
        sizes = resolve_sam2_config(config)
        if init_from is None:
            self.model = new_sam2(sizes, seed=seed)
        else:
            self.model = build_sam2(config, init_from).model.requires_grad_(True).train()
        # Without a graph worth fusing, the plain formula has the faster backward on CPUs.
        with _quiet():
            self.model.set_attn_implementation("eager")
        width = cast(Sam2VisionConfig, sizes.vision_config).fpn_hidden_size
        self.heads = nn.ModuleList([PixelHeads(width), PixelHeads(width)])
        self.size = cast(int, self.model.prompt_encoder.input_image_size)

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of scenes."""
        view = random_view(batch.images, batch.instances, self.size, smallest_crop=self.smallest_crop, recolour=0.5)
        features = self.embed(view.images)
        clicks = draw_prompts(view.instances, self.prompts)
        others = draw_prompts(view.instances, max(1, self.prompts // 2), clicks=2, background=0.0)
        first = self.decode(features, clicks, multimask=True)
        second = self.decode(features, others, multimask=False, boxes=batch_idx % 2 == 0)
        pixels = self.heads[0](features[0].float(), view.instances) + self.heads[1](features[2].float(), view.instances)
        loss: Tensor = _total(first) + 0.5 * _total(second) + 0.5 * pixels
        self._log("train", first, second)
        self.log("train/pixels", pixels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Log the same figures for scenes that were not trained on, as they are."""
        view = whole_view(batch.images, batch.instances, self.size)
        features = self.embed(view.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            prompts = draw_prompts(view.instances, self.prompts, clicks=1, background=0.0)
        first = self.decode(features, prompts, multimask=True)
        self._log("val", first, self.decode(features, prompts, multimask=False, boxes=True))

    def save(self, folder: Path) -> None:
        """Write the model without the heads that only training needs."""
        preprocessor = preprocessor_config(self.size, IMAGE_MEAN, IMAGE_STD, processor="Sam2ImageProcessor")
        tensors = self.model.state_dict()
        save_folder(folder, tensors, config=self.model.config.to_dict(), preprocessor=preprocessor)

    def embed(self, images: Float[Tensor, "B 3 S S"]) -> list[Float[Tensor, "B C h w"]]:
        """Return the feature maps at strides 4, 8 and 16 of images in [0, 1], with their gradient."""
        maps = self.model.vision_encoder(normalised(images, IMAGE_MEAN, IMAGE_STD), return_dict=True).fpn_hidden_states
        return list(maps)

    def decode(
        self, features: list[Float[Tensor, "B C h w"]], prompts: PromptBatch, *, multimask: bool, boxes: bool = False
    ) -> MaskLosses:
        """Decode prompts and compare their masks with the true ones."""
        model, decoder = self.model, self.model.mask_decoder
        high_res = [decoder.conv_s0(features[0]), decoder.conv_s1(features[1])]
        image = features[2] + model.no_memory_embedding.reshape(1, -1, 1, 1)
        # Positions lose whole pixels in bfloat16.
        with torch.autocast(self.device.type, enabled=False):
            given = (None, None, prompts.boxes) if boxes else (prompts.points, prompts.labels, None)
            sparse, dense = model.prompt_encoder(*given, None)
            positions = model.get_image_wide_positional_embeddings().repeat(len(image), 1, 1, 1)
        logits, predicted_iou, _, score = decoder(image, positions, sparse, dense, multimask, high_res)
        return mask_losses(
            logits.flatten(0, 1).float(),
            predicted_iou.flatten(0, 1).float(),
            score.flatten().float(),
            prompts.masks.flatten(0, 1),
            prompts.on_object.flatten(),
        )

    def _log(self, stage: str, clicks: MaskLosses, others: MaskLosses) -> None:
        self.log(f"{stage}/mask", clicks.mask)
        self.log(f"{stage}/best_iou", clicks.best_iou, prog_bar=True)
        self.log(f"{stage}/chosen_iou", clicks.chosen_iou, prog_bar=True)
        self.log(f"{stage}/iou_error", clicks.iou)
        self.log(f"{stage}/single_iou", others.best_iou, prog_bar=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from telling that configurations without a model of their own take the setting too."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # of transformers
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _total(losses: MaskLosses) -> Tensor:
    terms = [weight * getattr(losses, name) for name, weight in _WEIGHTS.items()]
    return torch.stack(terms).sum()
