"""SAM2 as `ntt export` writes it, which ONNX Runtime runs over NumPy arrays: a promptable model without torch."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from jaxtyping import Float, Int, UInt8

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.encoders.preprocessing import normalize_pixels, resize_bilinear
from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsFormatError
from no_time_to_train.proposers.base import (
    Embedding,
    MaskFilter,
    MaskProposals,
    Prompts,
    best_above,
    collect_masks,
)
from no_time_to_train.proposers.sam2.worker_threads import MOST_WORKERS, map_ahead
from no_time_to_train.runtime.encoder import hash_of
from no_time_to_train.runtime.graph_parts import open_parts
from no_time_to_train.runtime.onnx_session import (
    EXPORT_AGAIN,
    IMAGE_ENCODER_FILE,
    PROMPT_DECODER_FILE,
    load_graph,
    open_session,
    read_onnx_file,
)
from no_time_to_train.runtime.running import run_images

# By the names of transformers.js, in this package's order: what prompts attend to comes first.
_EMBEDDINGS = {"features": "image_embeddings.2", "stride4": "image_embeddings.0", "stride8": "image_embeddings.1"}
_PROMPTS = ("input_points", "input_labels", "input_boxes")
_IOU, _MASKS = "iou_scores", "pred_masks"
# Prompts that are decoded together: by each of several threads, and by all threads of one session.
_EACH, _TOGETHER = 4, 16


class PreparedImage(NamedTuple):
    """One image's embedding, and what all prompts on it share, by the names of the decoder's graph."""

    values: dict[str, np.ndarray]


class OnnxSam2:
    """SAM2 for single images, a `PromptableModel` over NumPy arrays.

    The point (0, 0) is the center of the top left pixel.

    Args:
        folder: What `ntt export` wrote of a SAM2.
        provider: Of ONNX Runtime, such as `cpu` or `cuda`.

    Raises:
        ConfigError: There is no such provider, or onnxruntime is older than the files need.
        WeightsNotFoundError: A file is missing.
        WeightsFormatError: A file is damaged, or does not give what it says of itself.
    """

    kind = "SAM2"
    device = "cpu"
    random_weights = False

    def __init__(self, folder: Path | str, provider: str = "cpu") -> None:
        self._image_file = read_onnx_file(Path(folder) / IMAGE_ENCODER_FILE)
        self._prompt_file = read_onnx_file(Path(folder) / PROMPT_DECODER_FILE)
        self._images = open_session(self._image_file, device=provider)
        given = {value.name: value.shape for value in self._images.get_outputs()}
        taken = {value.name for value in load_graph(self._prompt_file).graph.input}
        size = self._image_file.image_size
        if size is None or not given.keys() >= set(_EMBEDDINGS.values()) or not taken >= {*given, *_PROMPTS}:
            raise WeightsFormatError(
                f"{self._image_file.path} and {PROMPT_DECODER_FILE} are not a SAM2: expected {', '.join(given)} and "
                f"{', '.join(_PROMPTS)} as inputs of the decoder, got {', '.join(sorted(taken))}",
                remedy=EXPORT_AGAIN,
            )
        # The image's side is computed once, the masks of those prompts alone that are wanted.
        self._shared, self._tokens, self._upscaled = open_parts(
            self._prompt_file,
            tuple(_EMBEDDINGS.values()),
            (_IOU,),
            device=provider,
            # Each thread decodes prompts of its own; together they would wait for each other at every operator.
            threads=1 if provider == "cpu" else None,
        )
        self._workers = min(MOST_WORKERS, _cores()) if provider == "cpu" else 1
        self._shapes = {name: (1, *given[theirs][1:]) for name, theirs in _EMBEDDINGS.items()}
        self.image_size = size[0]

    @property
    def mask_size(self) -> int:
        """Side of the masks that it draws, in their pixels."""
        return self.image_size // 4

    @property
    def name(self) -> str:
        """What the files were made of, such as `sam2.1_hiera_tiny`."""
        return self._image_file.metadata.get("encoder", self.kind)

    @cached_property
    def _fingerprint(self) -> str:
        return f"onnx-sam2-{hash_of(self._image_file, self._prompt_file)[:16]}"

    def fingerprint(self) -> str:
        """Return the identity of both files and their weights; all are read, once."""
        return self._fingerprint

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array of one image's embedding: at stride 16, and for the upscaling at 4 and 8."""
        return self._shapes

    def preprocess(self, image: UInt8[np.ndarray, "3 H W"]) -> Float[np.ndarray, "1 3 S S"]:
        """Scale to [0, 1], resize to the model's square, normalize as for ImageNet.

        Raises:
            ImageSizeError: The image is empty, or not of three channels.
        """
        if image.ndim != 3 or image.shape[0] != 3 or not image.size:
            raise ImageSizeError(
                f"an image of shape {tuple(image.shape)}, expected (3, H, W)", remedy="convert the image to RGB first"
            )
        pixels = resize_bilinear(image, (self.image_size, self.image_size), "cpu")
        normalized: Float[np.ndarray, "1 3 S S"] = normalize_pixels(pixels, IMAGE_MEAN, IMAGE_STD)
        return normalized

    def embed(self, pixel_values: Float[np.ndarray, "B 3 S S"]) -> Embedding:
        """Embed images from `preprocess`, concatenated along the batch.

        Raises:
            ImageSizeError: The images are not of the model's size.
        """
        side = self.image_size
        if pixel_values.shape[1:] != (3, side, side):
            raise ImageSizeError(
                f"pixel_values of shape {pixel_values.shape}, expected (B, 3, {side}, {side})",
                remedy="prepare images with OnnxSam2.preprocess",
            )
        found = run_images(self._image_file, self._images, pixel_values, tuple(_EMBEDDINGS.values()))
        return {name: part.astype(np.float32, copy=False) for name, part in zip(_EMBEDDINGS, found, strict=True)}

    def scale_points(
        self, points: Float[np.ndarray, "N P 2"], image_size: tuple[int, int]
    ) -> Float[np.ndarray, "N P 2"]:
        """Bring points from pixels of an image of size (H, W) to pixels of the model's input."""
        height, width = image_size
        return points * np.asarray([self.image_size / width, self.image_size / height], dtype=np.float32)

    def prepare(self, embedding: Embedding) -> PreparedImage:
        """Compute what all prompts on an image share.

        Raises:
            ConfigError: The embedding is of several images.
        """
        count = len(embedding["features"])
        if count != 1:
            raise ConfigError(f"the embedding is of {count} images, expected one", remedy="embed images one by one")
        values = {theirs: np.ascontiguousarray(embedding[name]) for name, theirs in _EMBEDDINGS.items()}
        return PreparedImage({**values, **self._shared(values)})

    def mask_batches(
        self, image: PreparedImage, prompts: Prompts, keep: MaskFilter, *, batch_size: int = 128
    ) -> Iterator[MaskProposals]:
        """Decode prompts and give those of each one's three masks that are wanted, see `PromptableModel`.

        Raises:
            ConfigError: `batch_size` is less than 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1", remedy="64 is usual")
        prompts, step = prompts.like(np.empty(0)), min(batch_size, _EACH if self._workers > 1 else _TOGETHER)
        some = [prompts[start : start + step] for start in range(0, len(prompts), step)]

        def decode(part: Prompts) -> MaskProposals:
            return self._decode(image, part, keep)

        if min(self._workers, len(some)) < 2:
            yield from map(decode, some)
            return
        with ThreadPoolExecutor(self._workers, "prompts") as pool:
            try:
                yield from map_ahead(pool, decode, some, 2 * self._workers)
            finally:
                pool.shutdown(cancel_futures=True)

    def _decode(self, image: PreparedImage, prompts: Prompts, keep: MaskFilter) -> MaskProposals:
        found = self._tokens({**image.values, **_inputs(prompts)})
        predicted_iou: Float[np.ndarray, "N 3"] = found[_IOU][0]
        wanted = keep(predicted_iou)
        rows = np.flatnonzero(wanted.any(axis=1))
        masks: Float[np.ndarray, "M 3 Hm Wm"] = np.empty((0, 3, self.mask_size, self.mask_size), np.float32)
        if len(rows):
            # Values of single prompts have these along their first axis.
            own = {name: found[name] for name in self._upscaled.inputs if name in found}
            if len(rows) < len(wanted):
                own = {name: value[rows] for name, value in own.items()}
            masks = self._upscaled({**image.values, **own})[_MASKS][0]
        return MaskProposals(masks[wanted[rows]], predicted_iou[wanted])

    def best_masks(
        self, image: PreparedImage, prompts: Prompts, *, min_iou: float | None = None, batch_size: int = 128
    ) -> MaskProposals:
        """Give of each prompt's three masks that of highest predicted IoU, see `PromptableModel`."""
        batches = self.mask_batches(image, prompts, best_above(min_iou), batch_size=batch_size)
        return collect_masks(batches, len(prompts), self.mask_size, np.empty(0))


def _inputs(prompts: Prompts) -> dict[str, np.ndarray]:
    """Return prompts by the names of the decoder's inputs."""
    count = len(prompts)
    points: Float[np.ndarray, "1 N P 2"] = np.empty((1, 1, 0, 2), np.float32)
    labels: Int[np.ndarray, "1 N P"] = np.empty((1, count, 0), np.int64)
    boxes: Float[np.ndarray, "1 M 4"] = np.empty((1, 0, 4), np.float32)
    if prompts.boxes is not None:
        boxes = prompts.boxes[None]
    elif prompts.points is not None and prompts.labels is not None:
        points, labels = prompts.points[None], prompts.labels[None].astype(np.int64)
    return dict(zip(_PROMPTS, (points, labels, boxes), strict=True))


def _cores() -> int:
    """Return how many of the processor's cores this process may use."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores
