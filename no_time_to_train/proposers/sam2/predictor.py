"""SAM2 as this package uses it: an image is embedded once, then point or box prompts are decoded into masks in batches.

The network is transformers' `Sam2Model`; weights come from Meta's `.pt` files or from transformers' folders.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import Sam2Model

from no_time_to_train.configs.sam2_releases import command_for
from no_time_to_train.encoders.preprocessing import Resize, normalize_pixels, resize_bilinear
from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsNotFoundError
from no_time_to_train.proposers.base import ImageEmbedding, MaskPredictions, Prompts, SelectedMasks, point_grid
from no_time_to_train.proposers.sam2.configs import (
    SAM2_CONFIGS,
    Sam2HieraConfig,
    resolve_sam2_config,
)
from no_time_to_train.proposers.sam2.fast_decoder import ImageSide, Keep, PromptDecoder
from no_time_to_train.proposers.sam2.weights import load_sam2, new_sam2, set_positions

__all__ = [
    "SAM2_CONFIGS",
    "ImageEmbedding",
    "MaskPredictions",
    "Prompts",
    "Sam2HieraConfig",
    "Sam2Segmenter",
    "SelectedMasks",
    "build_sam2",
    "new_sam2",
    "point_grid",
]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Sam2Segmenter(nn.Module):
    """SAM2 for single images, frozen and always in evaluation mode.

    Coordinates of prompts are pixels of the model's square input; `scale_points` and `scale_boxes` bring an image's
    coordinates there. The point (0, 0) is the centre of the top left pixel, as in Meta's code, which adds the half.

    Args:
        model: The network, with its weights.
        random_weights: The weights are random, so that masks mean nothing.
    """

    def __init__(self, model: Sam2Model, *, random_weights: bool = False) -> None:
        super().__init__()
        self.random_weights = random_weights
        self.model = model.requires_grad_(False)
        self._decoder = PromptDecoder(model)
        self.eval()

    def train(self, mode: bool = True) -> "Sam2Segmenter":
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
        return self.model.no_memory_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are in."""
        return self.model.no_memory_embedding.dtype

    @property
    def image_dtype(self) -> torch.dtype:
        """What images are embedded in."""
        dtype: torch.dtype = next(self.model.vision_encoder.parameters()).dtype
        return dtype

    def embed_in(self, dtype: torch.dtype) -> None:
        """Embed images in another dtype from now on; prompts are decoded in the same one as before."""
        # These two belong to the decoder by name, and to the image by what they do.
        decoder = self.model.mask_decoder
        for part in (self.model.vision_encoder, decoder.conv_s0, decoder.conv_s1):
            part.to(dtype)

    def preprocess(self, image: UInt8[Tensor, "3 H W"], resize: Resize = resize_bilinear) -> Float[Tensor, "1 3 S S"]:
        """Scale to [0, 1], resize to the model's square, normalise as for ImageNet.

        Args:
            image: RGB. The aspect ratio is not kept, as in Meta's `SAM2Transforms`.
            resize: How it is resized; by default as Meta does, bilinear, antialiased, in float.

        Raises:
            ImageSizeError: The image is empty, or not of three channels.
        """
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ImageSizeError(
                f"an image of shape {tuple(image.shape)}, expected (3, H, W)", remedy="convert the image to RGB first"
            )
        pixels = resize(image, (self.image_size, self.image_size), self.device)
        return normalize_pixels(pixels, IMAGE_MEAN, IMAGE_STD)

    @torch.inference_mode()
    def embed(self, pixel_values: Float[Tensor, "B 3 S S"], *, memory_embedding: bool = True) -> ImageEmbedding:
        """Embed images, once each.

        Args:
            pixel_values: Normalised images from `preprocess`, concatenated along the batch.
            memory_embedding: Add the embedding of "no memory" to the features, as Meta's image predictor does.

        Raises:
            ImageSizeError: The images are not of the model's size.
        """
        if pixel_values.shape[1:] != (3, self.image_size, self.image_size):
            raise ImageSizeError(
                f"pixel_values of shape {tuple(pixel_values.shape)}, expected (B, 3, {self.image_size}, "
                f"{self.image_size})",
                remedy="prepare images with Sam2Segmenter.preprocess",
            )
        pixels = pixel_values.to(self.device, self.image_dtype)
        maps = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states
        if memory_embedding:
            maps[-1] = maps[-1] + self.model.no_memory_embedding
        stride4, stride8, features = (
            part.permute(1, 2, 0).unflatten(2, size)
            for part, size in zip(maps, self.model.backbone_feature_sizes, strict=True)
        )
        return ImageEmbedding(features.float(), (stride4.float(), stride8.float()))

    def scale_points(self, points: Float[Tensor, "N P 2"], image_size: tuple[int, int]) -> Float[Tensor, "N P 2"]:
        """Bring points from pixels of an image of size (H, W) to pixels of the model's input."""
        height, width = image_size
        return points * points.new_tensor([self.image_size / width, self.image_size / height])

    def scale_boxes(self, boxes: Float[Tensor, "N 4"], image_size: tuple[int, int]) -> Float[Tensor, "N 4"]:
        """Bring xyxy boxes from pixels of an image of size (H, W) to pixels of the model's input."""
        return self.scale_points(boxes.reshape(-1, 2, 2), image_size).reshape(-1, 4)

    def decode_points(
        self,
        embedding: ImageEmbedding,
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
        embedding: ImageEmbedding,
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

    def best_masks(
        self,
        image: ImageEmbedding | ImageSide,
        prompts: Prompts,
        *,
        min_iou: float | None = None,
        batch_size: int = 128,
    ) -> SelectedMasks:
        """Decode prompts and draw of each one's three masks that of highest predicted IoU.

        Args:
            image: One image, embedded or prepared.
            prompts: Points or boxes, in pixels of the model's input.
            min_iou: Masks of this predicted IoU or less are not drawn; None draws one for every prompt.
            batch_size: Most prompts that are decoded together.

        Returns:
            The masks in the order of their prompts.

        Raises:
            ConfigError: The embedding is of several images, or `batch_size` is less than 1.
        """
        return self._collect(
            len(prompts), self.selected_batches(image, prompts, _best_above(min_iou), batch_size=batch_size)
        )

    def selected_batches(
        self, image: ImageEmbedding | ImageSide, prompts: Prompts, keep: Keep, *, batch_size: int = 128
    ) -> Iterator[SelectedMasks]:
        """Decode prompts, a few at a time, and draw only the masks that are wanted.

        Args:
            image: One image, embedded or prepared.
            prompts: Points or boxes, in pixels of the model's input.
            keep: Tells from the predicted IoU of the three masks of N prompts, (N, 3), which to draw.
            batch_size: Most prompts that are decoded together.

        Raises:
            ConfigError: The embedding is of several images, or `batch_size` is less than 1.
        """
        prepared = image if isinstance(image, ImageSide) else self.prepare(image)
        _check_batch_size(batch_size)
        return self._decoder.selected(prepared, prompts.to(self.device), keep, batch_size=batch_size)

    def prepare(self, embedding: ImageEmbedding) -> ImageSide:
        """Compute what all prompts on an image share, for callers that put prompts to it several times.

        Args:
            embedding: One image.

        Raises:
            ConfigError: The embedding is of several images.
        """
        if len(embedding) != 1:
            raise ConfigError(
                f"the embedding is of {len(embedding)} images, expected one", remedy="index it: embedding[0]"
            )
        return self._decoder.prepare(embedding.to(self.device, self.dtype))

    def _decode_all(
        self, embedding: ImageEmbedding, prompts: Prompts, batch_size: int, multimask: bool
    ) -> MaskPredictions:
        _check_batch_size(batch_size)
        prepared, prompts = self.prepare(embedding), prompts.to(self.device)
        if multimask:
            batches = self._decoder.selected(prepared, prompts, torch.isfinite, batch_size=batch_size)
        else:
            batches = self._decoder.single(prepared, prompts, batch_size=batch_size)
        masks = 3 if multimask else 1
        whole = self._collect(masks * len(prompts), batches)
        return MaskPredictions(*(torch.unflatten(part, 0, (len(prompts), masks)) for part in whole))

    def _collect(self, most: int, batches: Iterator[SelectedMasks]) -> SelectedMasks:
        """Copy masks one after the other into memory for all of them, so that no two copies of all exist."""
        side = self.mask_size
        whole = SelectedMasks(
            torch.empty((most, side, side), device=self.device), torch.empty(most, device=self.device)
        )
        stop = 0
        for batch in batches:
            start, stop = stop, stop + len(batch.predicted_iou)
            whole.mask_logits[start:stop] = batch.mask_logits
            whole.predicted_iou[start:stop] = batch.predicted_iou
        return SelectedMasks(whole.mask_logits[:stop], whole.predicted_iou[:stop])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1", remedy="64 is usual")


def _best_above(min_iou: float | None) -> Keep:
    """Choose the best of each prompt's masks, if its predicted IoU is high enough."""

    def keep(predicted_iou: Float[Tensor, "N K"]) -> Bool[Tensor, "N K"]:
        best, choice = predicted_iou.max(dim=1, keepdim=True)
        enough = torch.ones_like(best, dtype=torch.bool) if min_iou is None else best > min_iou
        return torch.zeros_like(predicted_iou, dtype=torch.bool).scatter_(1, choice, enough)

    return keep


def build_sam2(
    cfg_file: str | Path,
    ckpt_path: str | Path | None = None,
    *,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Sam2Segmenter:
    """Build a SAM2 image model and fill it with weights, which exist in memory once.

    Args:
        cfg_file: Meta's name (``sam2_hiera_l.yaml``, ``configs/sam2.1/sam2.1_hiera_l.yaml``), or a Hugging Face folder
            with a ``config.json`` of a SAM2 (video) model, or that file.
        ckpt_path: Meta's ``.pt``, or a ``.safetensors`` file or folder by transformers' names; which of the two is read
            from the tensors. Default: the weights in the folder `cfg_file`, if it is one. SAM 2 and SAM 2.1 are the
            same image model, so that a configuration of the one takes weights of the other.
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
    config = resolve_sam2_config(cfg_file)
    if ckpt_path is None and _holds_weights(Path(cfg_file), random_init=random_init):
        ckpt_path = cfg_file
    if ckpt_path is not None:
        _check_there(str(cfg_file), Path(ckpt_path))
        return Sam2Segmenter(load_sam2(config, Path(ckpt_path), dtype=dtype, device=device))
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
    segmenter = Sam2Segmenter(model, random_weights=True).to(device=device, dtype=dtype)
    set_positions(model, matrix.to(device))
    return segmenter


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
