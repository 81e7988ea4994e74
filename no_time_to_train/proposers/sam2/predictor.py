"""SAM2 as this package uses it: an image is embedded once, then point or box prompts are decoded into masks in batches.

The network is transformers' `Sam2Model`; weights come from Meta's `.pt` files or from transformers' folders.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import Sam2Model

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.configs.sam2_releases import command_for
from no_time_to_train.configs.shipped import find_weights
from no_time_to_train.encoders.fingerprint import sam2_digest
from no_time_to_train.encoders.preprocessing import normalize_pixels
from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsNotFoundError
from no_time_to_train.proposers.base import (
    Embedding,
    MaskFilter,
    MaskProposals,
    Prompts,
    best_above,
    collect_masks,
)
from no_time_to_train.proposers.factory import PromptingRules
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.proposers.sam2.fast_decoder import ImageState, PromptDecoder
from no_time_to_train.proposers.sam2.original_decoding import decode_as_original
from no_time_to_train.proposers.sam2.weights import load_sam2, new_sam2, set_positions


@dataclass(frozen=True)
class MaskPredictions:
    """K masks for each of N prompts: 3, or 1 where a single mask was asked for.

    Attributes:
        mask_logits: float32, positive inside the mask, at a quarter of the model's input resolution.
        predicted_iou: float32 in [0, 1], the model's own estimate of each mask's IoU with the object.
    """

    mask_logits: Float[Tensor, "N K Hm Wm"]
    predicted_iou: Float[Tensor, "N K"]

    def best(self) -> MaskProposals:
        """Take the mask of highest predicted IoU of each prompt."""
        predicted_iou, choice = self.predicted_iou.max(dim=1)
        rows = torch.arange(len(choice), device=choice.device)
        return MaskProposals(self.mask_logits[rows, choice], predicted_iou)


class Sam2Predictor(nn.Module):
    """SAM2 for single images, frozen and always in evaluation mode.

    A `PromptableModel`. The point (0, 0) is the centre of the top left pixel, as in Meta's code, which adds the half.

    Args:
        model: The network, with its weights.
        rules: How images come to it, and whether prompts are decoded in the original's order of computation.
        random_weights: The weights are random, so that masks mean nothing.
    """

    kind = "SAM2"

    def __init__(self, model: Sam2Model, rules: PromptingRules | None = None, *, random_weights: bool = False) -> None:
        super().__init__()
        self.rules = rules or PromptingRules()
        self.random_weights = random_weights
        self.model = model.requires_grad_(False)
        self._decoder = PromptDecoder(model)
        self.eval()

    def train(self, mode: bool = True) -> "Sam2Predictor":
        """Stay in evaluation mode, in which a single mask is chosen by its stability."""
        del mode
        return super().train(False)

    @property
    def image_size(self) -> int:
        """Side of the model's square input, in pixels."""
        return cast(int, self.model.prompt_encoder.input_image_size)

    @property
    def mask_size(self) -> int:
        """Side of the masks that the decoder gives, in their pixels."""
        return self.image_size // 4

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weights.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are in."""
        return self._weights.dtype

    @property
    def image_dtype(self) -> torch.dtype:
        """What images are embedded in."""
        dtype: torch.dtype = next(self.model.vision_encoder.parameters()).dtype
        return dtype

    @property
    def image_encoder(self) -> nn.Module:
        """The network that embeds images."""
        return cast(nn.Module, self.model.vision_encoder)

    def fingerprint(self) -> str:
        """Return the identity of weights and configuration; all weights are read."""
        return sam2_digest(self, self.model.config.to_dict())

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of one image's embedding: at stride 16, and for the upscaling at 4 and 8."""
        config: Any = self.model.config.prompt_encoder_config
        width, side = config.hidden_size, self.image_size
        return {
            "features": (1, width, side // 16, side // 16),
            "stride4": (1, width // 8, side // 4, side // 4),
            "stride8": (1, width // 4, side // 8, side // 8),
        }

    def set_precision(self, dtype: torch.dtype) -> None:
        """Embed images in another dtype from now on; prompts are decoded in the same one as before."""
        # These two belong to the decoder by name, and to the image by what they do.
        decoder = self.model.mask_decoder
        for part in (self.model.vision_encoder, decoder.conv_s0, decoder.conv_s1):
            part.to(dtype)

    def preprocess(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "1 3 S S"]:
        """Scale to [0, 1], resize to the model's square, normalise as for ImageNet.

        Args:
            image: RGB. The aspect ratio is not kept, as in Meta's `SAM2Transforms`.

        Raises:
            ImageSizeError: The image is empty, or not of three channels.
        """
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ImageSizeError(
                f"an image of shape {tuple(image.shape)}, expected (3, H, W)", remedy="convert the image to RGB first"
            )
        pixels = self.rules.resize(image, (self.image_size, self.image_size), self.device)
        normalized: Tensor = normalize_pixels(pixels, IMAGE_MEAN, IMAGE_STD)
        return normalized

    @torch.inference_mode()
    def embed(self, pixel_values: Float[Tensor, "B 3 S S"]) -> Embedding:
        """Embed images, once each.

        Args:
            pixel_values: Normalised images from `preprocess`, concatenated along the batch.

        Returns:
            `features` at stride 16, with the embedding of "no memory" added as Meta's image predictor does, unless the
            rules are the original's; `stride4` and `stride8`.

        Raises:
            ImageSizeError: The images are not of the model's size.
        """
        if pixel_values.shape[1:] != (3, self.image_size, self.image_size):
            raise ImageSizeError(
                f"pixel_values of shape {tuple(pixel_values.shape)}, expected (B, 3, {self.image_size}, "
                f"{self.image_size})",
                remedy="prepare images with Sam2Predictor.preprocess",
            )
        pixels = pixel_values.to(self.device, self.image_dtype)
        maps = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states
        if not self.rules.as_original:
            maps[-1] = maps[-1] + self.model.no_memory_embedding
        stride4, stride8, features = (
            part.permute(1, 2, 0).unflatten(2, size)
            for part, size in zip(maps, self.model.backbone_feature_sizes, strict=True)
        )
        return {"features": features.float(), "stride4": stride4.float(), "stride8": stride8.float()}

    def scale_points(self, points: Float[Tensor, "N P 2"], image_size: tuple[int, int]) -> Float[Tensor, "N P 2"]:
        """Bring points from pixels of an image of size (H, W) to pixels of the model's input."""
        height, width = image_size
        return points * points.new_tensor([self.image_size / width, self.image_size / height])

    def decode_points(
        self,
        embedding: Embedding,
        points: Float[Tensor, "N P 2"],
        labels: Int[Tensor, "N P"],
        *,
        batch_size: int = 128,
        multimask: bool = True,
    ) -> MaskPredictions:
        """Decode N prompts of P points each.

        Args:
            embedding: One image.
            points: x and y in pixels of the model's input.
            labels: 1 on the object, 0 on the background, -10 padding.
            batch_size: Prompts that are decoded at a time.
            multimask: Three masks a prompt. If false one: Meta's single mask, or the best of the three where that one
                is unstable.

        Raises:
            ConfigError: The embedding is of several images, or the prompts' shapes do not fit together.
        """
        return self._decode_all(embedding, Prompts(points, labels), batch_size, multimask)

    def decode_boxes(
        self,
        embedding: Embedding,
        boxes: Float[Tensor, "N 4"],
        *,
        batch_size: int = 128,
        multimask: bool = True,
    ) -> MaskPredictions:
        """Decode N boxes.

        Args:
            embedding: One image.
            boxes: xyxy in pixels of the model's input.
            batch_size: Prompts that are decoded at a time.
            multimask: As in `decode_points`; a box is rarely ambiguous, so that one mask is the usual choice.

        Raises:
            ConfigError: The embedding is of several images, or the boxes are not of shape (N, 4).
        """
        return self._decode_all(embedding, Prompts(boxes=boxes), batch_size, multimask)

    @torch.inference_mode()
    def best_masks(
        self,
        image: Embedding | ImageState,
        prompts: Prompts,
        *,
        min_iou: float | None = None,
        batch_size: int = 128,
    ) -> MaskProposals:
        """Draw of each prompt's three masks that of highest predicted IoU, see `PromptableModel`."""
        prompts = prompts.like(self._weights)
        points = prompts.points
        # On a GPU the original's own kernels round as they please.
        if self.rules.as_original and self.device.type == "cpu" and points is not None and points.shape[1] == 1:
            least = -math.inf if min_iou is None else min_iou
            return decode_as_original(self.model, self._prepared(image).embedding, points[:, 0], min_iou=least)
        batches = self.mask_batches(image, prompts, best_above(min_iou), batch_size=batch_size)
        return collect_masks(batches, len(prompts), self.mask_size, self._weights)

    def mask_batches(
        self, image: Embedding | ImageState, prompts: Prompts, keep: MaskFilter, *, batch_size: int = 128
    ) -> Iterator[MaskProposals]:
        """Decode prompts and draw those of each one's three masks that are wanted, see `PromptableModel`.

        Raises:
            ConfigError: `batch_size` is less than 1.
        """
        _check_batch_size(batch_size)
        prompts = prompts.like(self._weights)
        return self._decoder.selected(self._prepared(image), prompts, keep, batch_size=batch_size)

    def prepare(self, embedding: Embedding) -> ImageState:
        """Compute what all prompts on an image share, for callers that put prompts to it several times.

        Args:
            embedding: One image.

        Raises:
            ConfigError: The embedding is of several images.
        """
        count = len(embedding["features"])
        if count != 1:
            raise ConfigError(f"the embedding is of {count} images, expected one", remedy="embed images one by one")
        return self._decoder.prepare({name: part.to(self.device, self.dtype) for name, part in embedding.items()})

    @property
    def _weights(self) -> Tensor:
        return cast(Tensor, self.model.no_memory_embedding)

    def _prepared(self, image: Embedding | ImageState) -> ImageState:
        return image if isinstance(image, ImageState) else self.prepare(image)

    def _decode_all(self, embedding: Embedding, prompts: Prompts, batch_size: int, multimask: bool) -> MaskPredictions:
        _check_batch_size(batch_size)
        prepared, prompts = self.prepare(embedding), prompts.like(self._weights)
        if multimask:
            batches = self._decoder.selected(prepared, prompts, torch.isfinite, batch_size=batch_size)
        else:
            batches = self._decoder.single(prepared, prompts, batch_size=batch_size)
        masks = 3 if multimask else 1
        whole = collect_masks(batches, masks * len(prompts), self.mask_size, self._weights)
        return MaskPredictions(*(torch.unflatten(part, 0, (len(prompts), masks)) for part in whole))


# The name of the first release.
Sam2Segmenter = Sam2Predictor


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1", remedy="64 is usual")


def build_sam2(
    cfg_file: str | Path,
    ckpt_path: str | Path | None = None,
    *,
    rules: PromptingRules | None = None,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Sam2Predictor:
    """Build a SAM2 image model and fill it with weights, which exist in memory once.

    Args:
        cfg_file: Meta's name (``sam2_hiera_l.yaml``, ``configs/sam2.1/sam2.1_hiera_l.yaml``), or a Hugging Face folder
            with a ``config.json`` of a SAM2 (video) model, or that file.
        ckpt_path: Meta's ``.pt``, or a ``.safetensors`` file or folder by transformers' names; which of the two is read
            from the tensors. Default: the weights in the folder `cfg_file`, if it is one. SAM 2 and SAM 2.1 are the
            same image model, so that a configuration of the one takes weights of the other.
        rules: How images come to it, and how prompts are decoded.
        random_init: Where there are no weights, neither named nor in the folder, take random ones, and warn.
        seed: Of the random weights; the global generators are left as they were.
        dtype: Of the weights; the matrix of the positions stays in float32.
        device: Where the weights go.

    Raises:
        UnknownNameError: `cfg_file` is no known name and no folder.
        ConfigError: The folder's ``config.json`` is not one of SAM2.
        WeightsNotFoundError: No weights are named and `random_init` is false, or there are none at the path.
        ShapeMismatchError: The weights are of another SAM2 than named.
        KeyMismatchError: Tensors are missing or unknown.
        WeightsFormatError: The file is broken, or not of SAM2.
    """
    cfg_file, ckpt_path = find_weights(cfg_file), None if ckpt_path is None else find_weights(ckpt_path)
    config = resolve_sam2_config(cfg_file)
    if ckpt_path is None and _holds_weights(Path(cfg_file), random_init=random_init):
        ckpt_path = cfg_file
    if ckpt_path is not None:
        _check_there(str(cfg_file), Path(ckpt_path))
        return Sam2Predictor(load_sam2(config, Path(ckpt_path), dtype=dtype, device=device), rules)
    if not random_init:
        fetch = command_for(str(cfg_file), None)
        raise WeightsNotFoundError(
            f"no SAM2 weights named for {cfg_file}",
            remedy=f"{f'{fetch} brings them to checkpoints/; ' if fetch else ''}name Meta's .pt as sam2_ckpt_path "
            "(ntt predict --sam2-weights); random_init: true tries the pipeline with meaningless masks",
        )
    warnings.warn(
        f"SAM2 ({cfg_file}) has random weights: its masks mean nothing; name a checkpoint for real ones", stacklevel=2
    )
    model = new_sam2(config, seed=seed)
    matrix = model.shared_image_embedding.positional_embedding
    predictor = Sam2Predictor(model, rules, random_weights=True).to(device=device, dtype=dtype)
    set_positions(model, matrix.to(device))
    return predictor


def _check_there(cfg_file: str, path: Path) -> None:
    """Say of a released file that is not there how to fetch it."""
    fetch = command_for(cfg_file, path)
    if fetch is not None and not path.exists():
        raise WeightsNotFoundError(f"no weights at {path}", remedy=f"{fetch} brings them, or check the path")


def _holds_weights(folder: Path, *, random_init: bool) -> bool:
    """Tell whether the weights are to come from a configuration's own folder."""
    if not folder.is_dir():
        return False
    # Without random_init an empty folder is asked too, and its error says what is missing.
    return not random_init or any(folder.glob("*.safetensors"))
