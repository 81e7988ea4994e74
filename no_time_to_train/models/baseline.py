"""What the two matching baselines share: encoder, SAM2, and a memory of references."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.configs.pipeline import (
    EncoderConfigArgs,
    FeatureCacheConfig,
    MemoryBankConfig,
    Precision,
    ProtocolName,
    as_config,
)
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.preprocessing import encoder_size
from no_time_to_train.encoders.torch_encoder import ONNX, build_encoder, is_file_of_weights
from no_time_to_train.errors import ConfigError, EmptyMaskError, ImageSizeError, MaskSizeError
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.matching.debias import PositionalDebias
from no_time_to_train.matching.memory_bank import foreground_mean
from no_time_to_train.matching.tiled_masks import resize_masks
from no_time_to_train.models.cache.feature_cache import FeatureCache
from no_time_to_train.models.feature_extractor import ImageFeatures
from no_time_to_train.models.protocols import protocol_of
from no_time_to_train.proposers.base import ImageEmbedding, Prompts, SelectedMasks
from no_time_to_train.proposers.sam2.predictor import Sam2Segmenter, build_sam2

log = logging.getLogger(__name__)


class MatchingBaseline(nn.Module, ABC):
    """References into memory, masks of a target matched with it.

    Args:
        sam2_cfg_file: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_ckpt_path: SAM2's weights; None takes those of the folder.
        encoder_cfg: Which encoder, and at which size.
        encoder_ckpt_path: The encoder's weights; None looks under `checkpoints/`.
        memory_bank_cfg: How references become memory.
        random_init: Draw random weights, with a warning, for whatever has none; for trying the pipeline.
        precision: What images are encoded and embedded in; prompts and matching stay in fp32.
        feature_cache: Where features are kept from run to run.
        protocol: Whose rules around the matching step, see `protocols`.

    Attributes:
        encoder: The feature encoder.
        sam2: The mask generator.
        protocol: The rules around the matching step.
        memory: The bank in use; None until `start_memory` or `use_memory`.
    """

    def __init__(
        self,
        sam2_cfg_file: str,
        sam2_ckpt_path: Path | str | None = None,
        *,
        encoder_cfg: EncoderConfigArgs | Mapping[str, Any],
        encoder_ckpt_path: Path | str | None = None,
        memory_bank_cfg: MemoryBankConfig | Mapping[str, Any] | None = None,
        random_init: bool = False,
        precision: Precision = "fp32",
        feature_cache: FeatureCacheConfig | Mapping[str, Any] | None = None,
        protocol: ProtocolName = "improved",
    ) -> None:
        super().__init__()
        self.protocol = protocol_of(protocol)
        if precision not in get_args(Precision):
            raise ConfigError(f"precision is {precision!r}, expected fp32 or bf16", remedy="correct it in the YAML")
        cache_cfg = as_config(FeatureCacheConfig, feature_cache, "feature_cache")
        # A folder that cannot be written to is known before weights are read.
        cache = None if cache_cfg.folder is None else FeatureCache(Path(cache_cfg.folder), int(1e9 * cache_cfg.max_gb))
        self.encoder_cfg = as_config(EncoderConfigArgs, encoder_cfg, "encoder_cfg")
        self.memory_bank_cfg = as_config(MemoryBankConfig, memory_bank_cfg, "memory_bank_cfg")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.encoder = _encoder(self.encoder_cfg, encoder_ckpt_path, random_init=random_init, dtype=dtype)
        self.sam2: Sam2Segmenter = build_sam2(sam2_cfg_file, sam2_ckpt_path, random_init=random_init)
        self.sam2.embed_in(dtype)
        self.features = ImageFeatures(self.encoder, self.sam2, self.encoder_cfg.resize_policy, cache, self.protocol)
        self.memory: MemoryBank | None = None
        debias = self.memory_bank_cfg.debias
        self._debias = PositionalDebias(self._encode_blank, debias.components) if debias.enabled else None

    def predict(self, image: UInt8[Tensor, "3 H W"]) -> Instances:
        """Find the instances of the memory's classes in an image (RGB). Errors as of `predict_batch`."""
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Instances]:
        """Find the instances of the memory's classes in images, which go through the two networks together.

        Args:
            images: RGB, of any sizes.

        Raises:
            ConfigError: No memory is in use.
            EmptyClassError: A class of the memory has no reference.
        """
        self._filled_memory()
        patches = self.encode_batch(images)
        proposals = self.propose(images, patches)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [self.match(*parts) for parts in zip(patches, proposals, sizes, strict=True)]

    def propose(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], patches: Sequence[Float[Tensor, "_ _ D"]]
    ) -> list[SelectedMasks]:
        """Let SAM2 propose masks for images, of which the patch features are given."""
        return self.features.proposals(
            images, self._proposal_key(), lambda index, embedding: self.propose_one(embedding, patches[index])
        )

    @abstractmethod
    def match(
        self, patches: Float[Tensor, "h w D"], proposals: SelectedMasks, image_size: tuple[int, int]
    ) -> Instances:
        """Match proposals with the memory, by the features of the same image, whose height and width are given."""

    @abstractmethod
    def propose_one(self, embedding: ImageEmbedding, patches: Float[Tensor, "h w D"]) -> SelectedMasks:
        """Propose masks for one image."""

    @abstractmethod
    def _proposal_key(self) -> str:
        """Name all that decides the proposals beside image and weights."""

    @property
    def random_weights(self) -> list[str]:
        """Names of the models whose weights are random, so that what they give means nothing."""
        models = {"encoder": self.encoder.random_weights, "SAM2": self.sam2.random_weights}
        return [name for name, random in models.items() if random]

    @property
    def memory_fingerprint(self) -> str:
        """Identity of all that decides the features in memory: weights, size, resizing, crop, protocol and so on."""
        debias = self.memory_bank_cfg.debias
        parts = [
            self.encoder.fingerprint,
            f"{self.encoder.img_size}px",
            self.encoder_cfg.resize_policy,
            f"crop{self.memory_bank_cfg.crop_scale:g}",
        ]
        if debias.enabled:
            parts.append(f"debias{debias.components or 'default'}")
        if self.normalizes_patches:
            parts.append("normalized")
        return self.protocol.key(" ".join(parts))

    @property
    def normalizes_patches(self) -> bool:
        """Return whether patch features are L2-normalised before they are averaged."""
        return False

    def start_memory(self, class_names: Sequence[str]) -> MemoryBank:
        """Begin an empty memory of these classes and return it."""
        self.memory = MemoryBank(
            class_names,
            self.encoder.embed_dim,
            self.memory_fingerprint,
            encoder_name=self.encoder.config.name,
            image_size=self.encoder.img_size,
        ).to(self._device)
        return self.memory

    def use_memory(self, memory: MemoryBank) -> None:
        """Take a bank that was filled before.

        Raises:
            EncoderMismatchError: It was filled with another encoder, or with other settings.
        """
        memory.check_encoder(self.memory_fingerprint, self.encoder.embed_dim)
        self.memory = memory.to(self._device)

    @torch.inference_mode()
    def encode(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w D"]:
        """Return the patch features of a whole image, debiased and normalised as the settings say, in float32."""
        return self.encode_batch([image])[0]

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Float[Tensor, "_ _ D"]]:
        """See `encode`; images go through the encoder together."""
        return self._finished(self.features.patches(images))

    def _finished(self, patches: list[Float[Tensor, "_ _ D"]]) -> list[Float[Tensor, "_ _ D"]]:
        """Debias and normalise patch features as the settings say."""
        if self._debias is not None:
            patches = [self._debias(entry) for entry in patches]
        return [nn.functional.normalize(entry, dim=-1) for entry in patches] if self.normalizes_patches else patches

    @torch.inference_mode()
    def encode_reference(
        self,
        image: UInt8[Tensor, "3 H W"],
        mask: Bool[Tensor, "H W"],
        box: tuple[float, float, float, float],
    ) -> tuple[Float[Tensor, "h w D"], Bool[Tensor, "h w"] | Float[Tensor, "h w"]]:
        """Encode the surroundings of a reference object.

        Args:
            image: RGB.
            mask: The object, at the image's size.
            box: Its box: x, y, width and height in pixels.

        Returns:
            Patch features of the window around the object, and the object on their grid: which patches count, or how
            much each of them does.

        Raises:
            MaskSizeError: The mask is not of the image's size.
            ImageSizeError: The image is not of shape (3, H, W).
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ImageSizeError(f"an image of shape {tuple(image.shape)}, expected (3, H, W)", remedy="convert to RGB")
        if mask.shape != image.shape[1:]:
            raise MaskSizeError(
                f"a reference mask of {mask.shape[-2]}x{mask.shape[-1]} for an image of "
                f"{image.shape[1]}x{image.shape[2]}",
                remedy="give each reference a mask of its image's size",
            )
        x1, y1, x2, y2 = self.window_of(box, (image.shape[1], image.shape[2]))
        patches = self._encode_window(image[:, y1:y2, x1:x2])
        size = encoder_size(y2 - y1, x2 - x1, self.encoder, self.encoder_cfg.resize_policy)
        inside = mask[y1:y2, x1:x2].to(patches.device)
        return patches, self.protocol.mask_weights(inside, size, (patches.shape[0], patches.shape[1]))

    def _encode_window(self, window: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w D"]:
        """Encode what was cut out around a reference, as a target where the protocol has one rule for both."""
        if self.protocol.resize_reference is self.protocol.resize_target:
            return self.encode(window)
        return self._finished(self.features.patches([window], references=True))[0]

    def window_of(
        self, box: tuple[float, float, float, float], image_size: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """Return what is cut out around a reference's box (x, y, width, height): x1, y1, x2, y2, the last excluded."""
        return self.protocol.window(box, *image_size, self.memory_bank_cfg.crop_scale)

    def reference_mean(
        self,
        image: UInt8[Tensor, "3 H W"],
        mask: Bool[Tensor, "H W"] | None,
        box: tuple[float, float, float, float],
        name: str,
    ) -> Float[Tensor, " D"]:
        """Return what memory keeps of a reference object: the mean of its patch features, in float32 on the CPU.

        Args:
            image: RGB.
            mask: The object, at the image's size; None lets SAM2 draw it.
            box: Its box: x, y, width and height in pixels.
            name: What to call it in errors.

        Raises:
            EmptyMaskError: There is nothing of the mask in the box's surroundings.
            MaskSizeError: The mask is not of the image's size.
        """
        drawn = self.mask_of_box(image, box) if mask is None else mask
        patches, on_grid = self.encode_reference(image, drawn, box)
        if not on_grid.any():
            raise EmptyMaskError(
                f"{name} has no foreground in its box {list(box)}",
                remedy="correct this reference's mask or box, or remove it",
            )
        mean: Tensor = foreground_mean(patches, on_grid)
        return mean.cpu()

    @torch.inference_mode()
    def mask_of_box(self, image: UInt8[Tensor, "3 H W"], box: tuple[float, float, float, float]) -> Bool[Tensor, "H W"]:
        """Let SAM2 draw the mask of a reference that is given as a box only (x, y, width, height in pixels)."""
        height, width = image.shape[1:]
        x, y, box_width, box_height = box
        corners = torch.tensor([[x, y, x + box_width, y + box_height]], device=self._device)
        (embedding,) = self.features.embeddings([image])
        prompts = Prompts(boxes=self.sam2.scale_boxes(corners, (height, width)))
        logits = self.sam2.best_masks(embedding, prompts).mask_logits
        (full,) = resize_masks(logits, (height, width))
        inside = torch.zeros_like(full)
        x1, y1 = min(max(0, math.floor(x)), width - 1), min(max(0, math.floor(y)), height - 1)
        x2, y2 = max(x1 + 1, math.ceil(x + box_width)), max(y1 + 1, math.ceil(y + box_height))
        inside[y1:y2, x1:x2] = full[y1:y2, x1:x2]
        if not inside.any():
            # SAM2 saw nothing: what the user gave is the box.
            inside[y1:y2, x1:x2] = True
        return inside

    def _encode_blank(self, height: int, width: int) -> Float[Tensor, "h w D"]:
        """Encode an image of the mean colour on a patch grid of that size."""
        patch = self.encoder.patch_size
        pixels = torch.zeros(1, 3, height * patch, width * patch, device=self._device)
        with torch.inference_mode():
            blank: Tensor = self.encoder(pixels).patches[0].float()
        return blank

    def _filled_memory(self) -> MemoryBank:
        if self.memory is None:
            raise ConfigError(
                "there is no memory of references to match with",
                remedy="run test_mode full, or fill a memory and give it as --ckpt_path",
            )
        return self.memory

    @property
    def _device(self) -> torch.device:
        return self.encoder.device


def _encoder(
    config: EncoderConfigArgs, ckpt_path: Path | str | None, *, random_init: bool, dtype: torch.dtype
) -> Encoder:
    if config.name.startswith(ONNX) or is_file_of_weights(config.name):
        return build_encoder(config.name, ckpt_path, img_size=config.img_size, dtype=dtype)
    entry = resolve_encoder(config.name, prefer_plus=config.prefer_plus)
    if ckpt_path is None:
        ckpt_path = weights_at_hand(entry)
        if ckpt_path is not None:
            log.info("weights of %s: %s", entry.name, ckpt_path)
    return build_encoder(entry.name, ckpt_path, img_size=config.img_size, random_init=random_init, dtype=dtype)
