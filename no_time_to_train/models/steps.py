"""The method: references into memory, masks that are proposed for a target matched with it.

The steps are the same whatever runs the two networks, over torch tensors or NumPy arrays.

Source: no-time-to-train, arXiv 2507.02798. With protocol `published`, results are those of its code at 214fc79 for
`matching_baseline_noAMG`; the Fidelity page of the documentation has the evidence and the limits. Its code of
`matching_baseline` is not imitated: it adds its mean feature to the memory at every image that it matches, normalizes
targets twice, and takes features from before the encoder's last norm.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, UInt8

from no_time_to_train import __version__
from no_time_to_train.configs.pipeline import FeatureCacheConfig, MatcherConfig
from no_time_to_train.data.datasets import ReferenceItem
from no_time_to_train.data.masks import box_of_mask
from no_time_to_train.encoders.preprocessing import encoder_size
from no_time_to_train.errors import ConfigError, EmptyMaskError, ImageSizeError, MaskSizeError
from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.matching.array_ops import Array, array_namespace, array_on, as_float, as_like, normalize, on_cpu
from no_time_to_train.matching.debias import PositionalDebias
from no_time_to_train.matching.memory_bank import foreground_mean
from no_time_to_train.matching.precision import without_gradients
from no_time_to_train.matching.scoring import match_all_mask_class_pairs
from no_time_to_train.matching.tiled_masks import resize_masks
from no_time_to_train.models.cache.feature_cache import content_key
from no_time_to_train.models.feature_extractor import ImageEncoder, ImageFeatures
from no_time_to_train.models.protocols import Protocol
from no_time_to_train.proposers.base import MaskProposals, MaskProposer, PromptableModel, Prompts, scale_boxes
from no_time_to_train.proposers.factory import build_proposer
from no_time_to_train.weights.identify import ONNX, is_file_of_weights


class PipelineSteps(ABC):
    """The steps of the method; `MatchingPipeline` and `OnnxPipeline` build the networks for them.

    Attributes:
        config: All settings.
        encoder: The feature encoder.
        promptable: The model that draws masks, such as SAM2.
        proposer: What it is asked on an image.
        protocol: The rules around the matching step.
        features: What the two networks give for images.
        memory: The bank in use; None until `start_memory` or `use_memory`.
        runtime: What runs the networks, for people.
    """

    config: MatcherConfig
    encoder: ImageEncoder
    promptable: PromptableModel
    proposer: MaskProposer
    protocol: Protocol
    features: ImageFeatures
    memory: MemoryBank | None = None
    runtime: str

    def set_up(
        self,
        config: MatcherConfig,
        encoder: ImageEncoder,
        promptable: PromptableModel,
        features: ImageFeatures,
        protocol: Protocol,
    ) -> None:
        """Take the settings and the networks."""
        self.config, self.protocol, self.features = config, protocol, features
        self.encoder, self.promptable = encoder, promptable
        self.proposer = build_proposer(config, promptable, protocol.points)
        debias = config.memory_bank_cfg.debias
        self._debias = PositionalDebias(self._encode_blank, debias.components) if debias.enabled else None

    @abstractmethod
    def to_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Array, "3 H W"]:
        """Return an image as the pipeline takes it: with its channels first, on the CPU."""

    def predict(self, image: UInt8[Array, "3 H W"]) -> Instances:
        """Find the instances of the memory's classes in an image (RGB). Errors as of `predict_batch`."""
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[UInt8[Array, "3 _ _"]]) -> list[Instances]:
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
        self, images: Sequence[UInt8[Array, "3 _ _"]], patches: Sequence[Float[Array, "_ _ D"]]
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
        patches: Float[Array, "h w D"],
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
            # "rank": directions that are but rounding stay since 0.2.
            parts.append(f"debias{debias.components or 'default'} rank")
        if self.normalizes_patches:
            parts.append("normalized")
        return self.protocol.key(" ".join(parts))

    @cached_property
    def _memory_key(self) -> str:
        # All weights are read for it.
        return self.memory_fingerprint

    @property
    def normalizes_patches(self) -> bool:
        """Whether patch features are L2-normalized before they are averaged."""
        return self.config.name == "matching_baseline"

    def start_memory(self, class_names: Sequence[str]) -> MemoryBank:
        """Begin an empty memory of these classes and return it."""
        self.memory = MemoryBank(
            class_names,
            self.encoder.embed_dim,
            self.memory_fingerprint,
            encoder_name=self.encoder.config.name,
            image_size=self.encoder.img_size,
        ).like(self._array)
        return self.memory

    def use_memory(self, memory: MemoryBank) -> None:
        """Take a bank that was filled before.

        Raises:
            EncoderMismatchError: It was filled with another encoder, or with other settings.
        """
        memory.check_encoder(self.memory_fingerprint, self.encoder.embed_dim)
        self.memory = memory.like(self._array)

    @without_gradients()
    def encode(self, image: UInt8[Array, "3 H W"]) -> Float[Array, "h w D"]:
        """Return the patch features of a whole image, debiased and normalised as the settings say, in float32."""
        return self.encode_batch([image])[0]

    @without_gradients()
    def encode_batch(self, images: Sequence[UInt8[Array, "3 _ _"]]) -> list[Float[Array, "_ _ D"]]:
        """See `encode`; images go through the encoder together."""
        return self._finished(self.features.patches(images))

    def _finished(self, patches: list[Float[Array, "_ _ D"]]) -> list[Float[Array, "_ _ D"]]:
        """Debias and normalise patch features as the settings say."""
        if self._debias is not None:
            patches = [self._debias(entry) for entry in patches]
        return [normalize(entry) for entry in patches] if self.normalizes_patches else patches

    @without_gradients()
    def encode_reference(
        self,
        image: UInt8[Array, "3 H W"],
        mask: Bool[Array, "H W"],
        box: tuple[float, float, float, float],
    ) -> tuple[Float[Array, "h w D"], Bool[Array, "h w"] | Float[Array, "h w"]]:
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
        inside = as_like(mask[y1:y2, x1:x2], patches)
        return patches, self.protocol.mask_weights(inside, size, (patches.shape[0], patches.shape[1]))

    def _encode_window(self, window: UInt8[Array, "3 H W"]) -> Float[Array, "h w D"]:
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
        image: UInt8[Array, "3 H W"],
        mask: Bool[Array, "H W"] | None,
        box: tuple[float, float, float, float],
        name: str,
    ) -> Float[Array, " D"]:
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
        return on_cpu(foreground_mean(patches, on_grid))

    def mean_of(self, item: ReferenceItem) -> Float[Array, " D"]:
        """Return what memory keeps of a reference that was read from files, see `reference_mean`."""
        return self.reference_mean(self.to_image(item.image), *self.object_of(item), item.name)

    def object_of(self, item: ReferenceItem) -> tuple[Bool[Array, "H W"], tuple[float, float, float, float]]:
        """Return a reference's mask and box; a mask that it does not have is drawn by its points or its box."""
        image, annotation = self.to_image(item.image), item.reference.annotation
        if item.mask is not None:
            return as_like(item.mask, image), annotation.bbox
        if not annotation.points:
            return self.mask_of_box(image, annotation.bbox), annotation.bbox
        drawn = self.mask_of_points(image, annotation.points)
        return drawn, box_of_mask(np.asarray(on_cpu(drawn)))

    @without_gradients()
    def mask_of_box(self, image: UInt8[Array, "3 H W"], box: tuple[float, float, float, float]) -> Bool[Array, "H W"]:
        """Draw the mask of a reference that is given as a box only (x, y, width, height in pixels)."""
        height, width = image.shape[1:]
        x, y, box_width, box_height = box
        corners = self._place([[x, y, x + box_width, y + box_height]])
        full = self._drawn(image, Prompts(boxes=scale_boxes(self.promptable, corners, (height, width))))
        inside = array_namespace(full).zeros_like(full)
        x1, y1 = min(max(0, math.floor(x)), width - 1), min(max(0, math.floor(y)), height - 1)
        x2, y2 = max(x1 + 1, math.ceil(x + box_width)), max(y1 + 1, math.ceil(y + box_height))
        inside[y1:y2, x1:x2] = full[y1:y2, x1:x2]
        if not inside.any():
            # Nothing was drawn: what the user gave is the box.
            inside[y1:y2, x1:x2] = True
        return inside

    @without_gradients()
    def mask_of_points(self, image: UInt8[Array, "3 H W"], points: Sequence[tuple[float, float]]) -> Bool[Array, "H W"]:
        """Draw the object that contains all points (x and y in pixels)."""
        size = (image.shape[1], image.shape[2])
        placed = self._place([list(points)])
        return self._drawn(image, Prompts(points=self.promptable.scale_points(placed, size)))

    def _drawn(self, image: UInt8[Array, "3 H W"], prompts: Prompts) -> Bool[Array, "H W"]:
        (embedding,) = self.features.embeddings([image])
        logits = self.promptable.best_masks(self.promptable.prepare(embedding), prompts).mask_logits
        return resize_masks(logits, (image.shape[1], image.shape[2]))[0]

    def _place(self, coordinates: list[list[float]] | list[list[tuple[float, float]]]) -> Float[Array, "..."]:
        """Return coordinates as an array of the pipeline's kind, where its networks are."""
        return as_like(np.asarray(coordinates, dtype=np.float32), self._array)

    def _encode_blank(self, height: int, width: int) -> Float[Array, "h w D"]:
        """Encode an image of the mean colour on a patch grid of that size."""
        patch = self.encoder.patch_size
        pixels = np.zeros((1, 3, height * patch, width * patch), dtype=np.float32)
        with without_gradients():
            return as_float(self.encoder(as_like(pixels, self._array)).patches[0])

    def _require_memory(self) -> MemoryBank:
        if self.memory is None:
            raise ConfigError(
                "matching needs a memory of references, and none is loaded",
                remedy="run test_mode full, or fill a memory and give it as --ckpt_path",
            )
        return self.memory

    @property
    def _array(self) -> Array:
        """An array of the kind and on the device of what the networks give."""
        return array_on(self.encoder.device)


def run_fingerprint(
    pipeline: PipelineSteps, references: Iterable[tuple[str, Float[Array, " D"], bool]], min_score: float
) -> str:
    """Name everything but the images that decides what is found: weights, settings, references, version.

    Args:
        pipeline: With its models and settings.
        references: Label, mean feature and whether it is negative, of each reference in their order.
        min_score: Instances of a lower score are left out.

    Returns:
        16 hexadecimal digits.
    """
    rows = [(label, negative, content_key(mean)) for label, mean, negative in references]
    # The content of the weights counts, not their path.
    config, encoder = pipeline.config, pipeline.config.encoder_cfg
    if encoder.name.startswith(ONNX):
        encoder = replace(encoder, name=ONNX)
    elif is_file_of_weights(encoder.name):
        encoder = replace(encoder, name="")
    settings = replace(
        config, encoder_cfg=encoder, encoder_ckpt_path=None, sam2_ckpt_path=None, feature_cache=FeatureCacheConfig()
    )
    weights = (pipeline.memory_fingerprint, pipeline.promptable.fingerprint())
    return content_key(*map(str, (__version__, weights, settings, rows, min_score)))[:16]
