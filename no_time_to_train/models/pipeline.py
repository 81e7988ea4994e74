"""The method: encoder, proposals and a memory of references, put together as the settings say.

Source: no-time-to-train, arXiv 2507.02798. With protocol `published`, results are those of its code at 214fc79 for
`matching_baseline_noAMG`; the Fidelity page of the documentation has the evidence and the limits. Its code of
`matching_baseline` is not imitated: it adds its mean feature to the memory at every image that it matches, normalizes
targets twice, and takes features from before the encoder's last norm.
"""

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.configs.pipeline import AmgConfig, MatcherConfig
from no_time_to_train.data.datasets import ReferenceItem
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.onednn_linear import use_onednn
from no_time_to_train.encoders.preprocessing import encoder_size, image_tensor
from no_time_to_train.encoders.torch_encoder import ONNX, build_encoder, is_file_of_weights
from no_time_to_train.errors import ConfigError, EmptyMaskError, ImageSizeError, MaskSizeError
from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.matching.debias import PositionalDebias
from no_time_to_train.matching.memory_bank import foreground_mean
from no_time_to_train.matching.scoring import match_all_mask_class_pairs
from no_time_to_train.matching.tiled_masks import resize_masks
from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key
from no_time_to_train.models.feature_extractor import ImageFeatures
from no_time_to_train.models.protocols import Protocol, protocol_of
from no_time_to_train.proposers.automatic import AutomaticMaskGenerator
from no_time_to_train.proposers.base import MaskProposals, MaskProposer, PromptableModel, Prompts, scale_boxes
from no_time_to_train.proposers.factory import build_promptable
from no_time_to_train.proposers.grid import GridProposer
from no_time_to_train.proposers.prior_guided import GuidedProposer

log = logging.getLogger(__name__)


class MatchingPipeline(nn.Module):
    """References into memory; masks that are proposed for a target matched with it.

    Args:
        config: All settings.

    Attributes:
        config: All settings.
        encoder: The feature encoder.
        promptable: The model that draws masks, such as SAM2.
        proposer: What it is asked on an image.
        protocol: The rules around the matching step.
        memory: The bank in use; None until `start_memory` or `use_memory`.

    Raises:
        NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
    """

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.config = config
        self.protocol = protocol_of(config.protocol)
        cache_cfg = config.feature_cache
        # A folder that cannot be written to is known before weights are read.
        cache = None if cache_cfg.folder is None else FeatureCache(Path(cache_cfg.folder), int(1e9 * cache_cfg.max_gb))
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.encoder = _encoder(config, dtype)
        self.promptable = build_promptable(
            config.sam2_cfg_file, config.sam2_ckpt_path, rules=self.protocol.prompting, random_init=config.random_init
        )
        self.promptable.set_precision(dtype)
        if config.compile:
            _compile(self.encoder, self.promptable)
        elif self.protocol.fastest_products:
            use_onednn(self)
        self.proposer = build_proposer(config, self.promptable, self.protocol)
        policy = config.encoder_cfg.resize_policy
        self.features = ImageFeatures(self.encoder, self.promptable, policy, cache, self.protocol)
        self.memory: MemoryBank | None = None
        debias = config.memory_bank_cfg.debias
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
        self._require_memory()
        patches = self.encode_batch(images)
        proposals = self.propose(images, patches)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [self.match(*parts) for parts in zip(patches, proposals, sizes, strict=True)]

    def propose(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], patches: Sequence[Float[Tensor, "_ _ D"]]
    ) -> list[MaskProposals]:
        """Propose masks for images, of which the patch features are given."""
        key, memory = self.proposer.settings, self.memory
        if self.proposer.uses_memory:
            memory = self._require_memory()
        if self.proposer.uses_memory and self.features.cache is not None:
            # Where prompts go depends on the references, and on all that makes features of the image.
            key += f" {content_key(cast(MemoryBank, memory).prototypes)} {self._memory_key}"
        return self.features.proposals(images, key, self.proposer, patches, memory)

    def match(
        self,
        patches: Float[Tensor, "h w D"],
        proposals: MaskProposals,
        image_size: tuple[int, int],
        memory: MemoryBank | None = None,
    ) -> Instances:
        """Match proposals with a memory.

        Args:
            patches: Patch features of the image.
            proposals: Of the same image.
            image_size: Its height and width.
            memory: By features of the same kind; the memory in use if None.
        """
        memory = self._require_memory() if memory is None else memory
        sigma = self.config.memory_bank_cfg.negative_sigma
        masks, quality = proposals
        if self.config.name == "matching_baseline":
            # Automatic masks have no doubles, and each may be of several classes.
            return match_all_mask_class_pairs(
                patches,
                masks,
                memory,
                image_size=image_size,
                max_instances=self.config.max_instances or 100,
                negative_sigma=sigma,
            )
        grid = self.config.grid
        return match_masks(
            patches,
            masks,
            quality,
            memory,
            image_size=image_size,
            nms_threshold=grid.nms_thr,
            max_instances=grid.num_out_instance,
            negative_sigma=sigma,
            pool=self.protocol.pool,
        )

    @property
    def random_weights(self) -> list[str]:
        """Names of the models whose weights are random, so that what they give means nothing."""
        models = {"encoder": self.encoder.random_weights, self.promptable.kind: self.promptable.random_weights}
        return [name for name, random in models.items() if random]

    @property
    def memory_fingerprint(self) -> str:
        """Identity of all that decides the features in memory: weights, size, resizing, crop, protocol and so on."""
        debias = self.config.memory_bank_cfg.debias
        parts = [
            self.encoder.fingerprint,
            f"{self.encoder.img_size}px",
            self.config.encoder_cfg.resize_policy,
            f"crop{self.config.memory_bank_cfg.crop_scale:g}",
        ]
        if debias.enabled:
            parts.append(f"debias{debias.components or 'default'}")
        if self.normalizes_patches:
            parts.append("normalized")
        return self.protocol.key(" ".join(parts))

    @cached_property
    def _memory_key(self) -> str:
        # All weights are read for it.
        return self.memory_fingerprint

    @property
    def normalizes_patches(self) -> bool:
        """Whether patch features are L2-normalised before they are averaged."""
        return self.config.name == "matching_baseline"

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
        size = encoder_size(y2 - y1, x2 - x1, self.encoder, self.config.encoder_cfg.resize_policy)
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
        return self.protocol.window(box, *image_size, self.config.memory_bank_cfg.crop_scale)

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
            mask: The object, at the image's size; None has it drawn by its box.
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

    def mean_of(self, item: ReferenceItem) -> Float[Tensor, " D"]:
        """Return what memory keeps of a reference that was read from files, see `reference_mean`."""
        mask = None if item.mask is None else torch.from_numpy(item.mask)
        return self.reference_mean(image_tensor(item.image), mask, item.reference.annotation.bbox, item.name)

    @torch.inference_mode()
    def mask_of_box(self, image: UInt8[Tensor, "3 H W"], box: tuple[float, float, float, float]) -> Bool[Tensor, "H W"]:
        """Draw the mask of a reference that is given as a box only (x, y, width, height in pixels)."""
        height, width = image.shape[1:]
        x, y, box_width, box_height = box
        corners = torch.tensor([[x, y, x + box_width, y + box_height]], device=self._device)
        full = self._drawn(image, Prompts(boxes=scale_boxes(self.promptable, corners, (height, width))))
        inside = torch.zeros_like(full)
        x1, y1 = min(max(0, math.floor(x)), width - 1), min(max(0, math.floor(y)), height - 1)
        x2, y2 = max(x1 + 1, math.ceil(x + box_width)), max(y1 + 1, math.ceil(y + box_height))
        inside[y1:y2, x1:x2] = full[y1:y2, x1:x2]
        if not inside.any():
            # Nothing was drawn: what the user gave is the box.
            inside[y1:y2, x1:x2] = True
        return inside

    @torch.inference_mode()
    def mask_of_points(
        self, image: UInt8[Tensor, "3 H W"], points: Sequence[tuple[float, float]]
    ) -> Bool[Tensor, "H W"]:
        """Draw the object that lies under all points (x and y in pixels)."""
        size = (image.shape[1], image.shape[2])
        placed = torch.tensor([list(points)], device=self._device)
        return self._drawn(image, Prompts(points=self.promptable.scale_points(placed, size)))

    def _drawn(self, image: UInt8[Tensor, "3 H W"], prompts: Prompts) -> Bool[Tensor, "H W"]:
        (embedding,) = self.features.embeddings([image])
        logits = self.promptable.best_masks(self.promptable.prepare(embedding), prompts).mask_logits
        mask: Tensor = resize_masks(logits, (image.shape[1], image.shape[2]))[0]
        return mask

    def _encode_blank(self, height: int, width: int) -> Float[Tensor, "h w D"]:
        """Encode an image of the mean colour on a patch grid of that size."""
        patch = self.encoder.patch_size
        pixels = torch.zeros(1, 3, height * patch, width * patch, device=self._device)
        with torch.inference_mode():
            blank: Tensor = self.encoder(pixels).patches[0].float()
        return blank

    def _require_memory(self) -> MemoryBank:
        if self.memory is None:
            raise ConfigError(
                "there is no memory of references to match with",
                remedy="run test_mode full, or fill a memory and give it as --ckpt_path",
            )
        return self.memory

    @property
    def _device(self) -> torch.device:
        return self.encoder.device


# The name of the first release.
MatchingBaseline = MatchingPipeline


def build_proposer(config: MatcherConfig, model: PromptableModel, protocol: Protocol) -> MaskProposer:
    """Choose what a promptable model is asked, as the settings say."""
    if config.name == "matching_baseline":
        return AutomaticMaskGenerator(model, config.sam2_amg_cfg or AmgConfig())
    if config.grid.prompt_selection == "prior":
        return GuidedProposer(model, config.grid)
    return GridProposer(model, config.grid, protocol.points)


def _compile(encoder: Encoder, promptable: PromptableModel) -> None:
    """Compile the networks that see images, at their first call; weights and their names stay."""
    network = getattr(encoder, "model", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"compile is true and the encoder {encoder.config.name} is a {type(encoder).__name__}, which torch cannot "
            "compile",
            remedy="set model_cfg.compile to false, or give weights of torch",
        )
    for part in (network, promptable.image_encoder):
        part.compile(dynamic=False)


def _encoder(config: MatcherConfig, dtype: torch.dtype) -> Encoder:
    encoder, path = config.encoder_cfg, config.encoder_ckpt_path
    if encoder.name.startswith(ONNX) or is_file_of_weights(encoder.name):
        return build_encoder(encoder.name, path, img_size=encoder.img_size, dtype=dtype)
    entry = resolve_encoder(encoder.name, prefer_plus=encoder.prefer_plus)
    if path is None:
        path = weights_at_hand(entry)
        if path is not None:
            log.info("weights of %s: %s", entry.name, path)
    return build_encoder(entry.name, path, img_size=encoder.img_size, random_init=config.random_init, dtype=dtype)
