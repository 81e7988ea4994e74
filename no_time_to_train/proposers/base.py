"""What proposes masks: two protocols, and the values that go in and come out.

A `PromptableModel` embeds an image once and draws masks for prompts on it; SAM2 is one. A `MaskProposer` decides what
such a model is asked on an image, and which of its masks are proposals. Arrays are torch tensors or NumPy arrays, as
the model gives them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int, UInt8

from no_time_to_train.errors import ConfigError
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.array_ops import Array, array_namespace, as_float, as_like, device

Embedding: TypeAlias = Mapping[str, Float[Array, "B ..."]]
"""What a promptable model knows of B images, by name, in float32: kept in caches as it is."""

MaskFilter: TypeAlias = Callable[[Float[Array, "N K"]], Bool[Array, "N K"]]
"""Tells from the predicted IoU of the K masks of N prompts which are wanted; several threads may call it at once."""


class MaskProposals(NamedTuple):
    """One mask per row.

    Attributes:
        mask_logits: float32, positive inside the mask, over the whole image at any resolution.
        predicted_iou: float32 in [0, 1], the model's own estimate of the mask's IoU with the object.
    """

    mask_logits: Float[Array, "N Hm Wm"]
    predicted_iou: Float[Array, " N"]


@dataclass(frozen=True)
class Prompts:
    """N prompts: P labelled points each, or a box each, in pixels of the model's input.

    Attributes:
        points: x and y; or None.
        labels: Of the points: 1 on the object, 0 on the background, -10 padding. Default: all on the object.
        boxes: xyxy; or None.

    Raises:
        ConfigError: Points and boxes are both given or both missing, or shapes are wrong.
    """

    points: Float[Array, "N P 2"] | None = None
    labels: Int[Array, "N P"] | None = None
    boxes: Float[Array, "N 4"] | None = None

    def __post_init__(self) -> None:
        points, labels, boxes = self.points, self.labels, self.boxes
        if (points is None) == (boxes is None):
            raise ConfigError("expected either points or boxes as prompts", remedy="give one of the two")
        if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ConfigError(f"boxes of shape {tuple(boxes.shape)}, expected (N, 4)", remedy="give xyxy boxes")
        if points is None:
            return
        if points.ndim != 3 or points.shape[2] != 2:
            raise ConfigError(
                f"points of shape {tuple(points.shape)}, expected (N, P, 2)", remedy="give x and y of P points a prompt"
            )
        if labels is None:
            xp = array_namespace(points)
            object.__setattr__(self, "labels", xp.ones(points.shape[:2], dtype=xp.int64, device=device(points)))
        elif labels.shape != points.shape[:2]:
            raise ConfigError(
                f"labels of shape {tuple(labels.shape)}, expected {tuple(points.shape[:2])}", remedy="label every point"
            )

    def __len__(self) -> int:
        prompts = self.boxes if self.points is None else self.points
        return 0 if prompts is None else len(prompts)

    def __getitem__(self, rows: slice) -> "Prompts":
        """Take a part of the prompts."""
        return Prompts(*(None if part is None else part[rows] for part in (self.points, self.labels, self.boxes)))

    def like(self, array: Array) -> "Prompts":
        """Return the prompts as arrays of the kind and on the device of another one, coordinates in float32."""

        def brought(part: Array | None) -> Array | None:
            return None if part is None else as_like(part, array)

        points, boxes = (None if part is None else as_float(brought(part)) for part in (self.points, self.boxes))
        return Prompts(points, brought(self.labels), boxes)


@runtime_checkable
class PromptableModel(Protocol):
    """A frozen network that embeds an image once and draws masks for prompts on it.

    Coordinates of prompts are pixels of its square input; `scale_points` brings an image's coordinates there. Masks
    cover the image exactly: a model that pads images cuts the padding off.
    """

    @property
    def kind(self) -> str:
        """What to call it in messages and reports, such as `SAM2`."""

    @property
    def image_size(self) -> int:
        """Side of its square input, in pixels."""

    @property
    def mask_size(self) -> int:
        """Side of the masks that it draws, in their pixels."""

    @property
    def device(self) -> Any:
        """Where its arrays are: a `torch.device`, or `cpu` for NumPy arrays."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random, so that masks mean nothing."""

    def fingerprint(self) -> str:
        """Return the identity of all that decides embeddings and masks; weights are read at each call."""

    @property
    def embedding_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor of one image's embedding, with its batch axis."""

    def preprocess(self, image: UInt8[Array, "3 H W"]) -> Float[Array, "1 3 S S"]:
        """Bring an image (RGB) to the model's input."""

    def embed(self, pixel_values: Float[Array, "B 3 S S"]) -> Embedding:
        """Embed images from `preprocess`, concatenated along the batch."""

    def scale_points(self, points: Float[Array, "N P 2"], image_size: tuple[int, int]) -> Float[Array, "N P 2"]:
        """Bring points from pixels of an image of size (H, W) to pixels of the model's input."""

    def prepare(self, embedding: Embedding) -> Any:
        """Compute what all prompts on one image share, for callers that put prompts to it several times."""

    def mask_batches(
        self, image: Any, prompts: Prompts, keep: MaskFilter, *, batch_size: int = 128
    ) -> Iterator[MaskProposals]:
        """Decode prompts, a few at a time, and draw only the masks that are wanted, in the order of the prompts.

        Args:
            image: From `prepare`.
            prompts: Points or boxes, in pixels of the model's input.
            keep: Which of each prompt's masks to draw.
            batch_size: Most prompts that are decoded together.
        """

    def best_masks(
        self, image: Any, prompts: Prompts, *, min_iou: float | None = None, batch_size: int = 128
    ) -> MaskProposals:
        """Draw of each prompt's masks that of highest predicted IoU, in the order of the prompts.

        Args:
            image: From `prepare`.
            prompts: Points or boxes, in pixels of the model's input.
            min_iou: Masks of this predicted IoU or less are not drawn; None draws one for every prompt.
            batch_size: Most prompts that are decoded together.
        """


@runtime_checkable
class TorchPromptableModel(PromptableModel, Protocol):
    """A promptable model that is a torch module."""

    @property
    def image_encoder(self) -> Any:
        """The module that embeds images; `set_precision` is for it alone."""

    def set_precision(self, dtype: Any) -> None:
        """Embed images in another `torch.dtype` from now on; prompts are decoded in the same one as before."""


@runtime_checkable
class MaskProposer(Protocol):
    """Proposes masks for an image, by what it asks of a promptable model."""

    @property
    def settings(self) -> str:
        """All that decides the proposals but image, model and memory; part of a cache's key."""

    @property
    def uses_memory(self) -> bool:
        """Whether patch features and memory decide what is proposed."""

    def __call__(
        self, embedding: Embedding, patches: Float[Array, "h w D"], memory: MemoryBank | None
    ) -> MaskProposals:
        """Propose masks.

        Args:
            embedding: One image, as the model embedded it.
            patches: The same image's patch features.
            memory: The references; not None where `uses_memory`.
        """


def scale_boxes(model: PromptableModel, boxes: Float[Array, "N 4"], image_size: tuple[int, int]) -> Float[Array, "N 4"]:
    """Bring xyxy boxes from pixels of an image of size (H, W) to pixels of a model's input."""
    return model.scale_points(boxes.reshape(-1, 2, 2), image_size).reshape(-1, 4)


def best_above(min_iou: float | None) -> MaskFilter:
    """Choose the best of each prompt's masks, if its predicted IoU is above a threshold."""

    def keep(predicted_iou: Float[Array, "N K"]) -> Bool[Array, "N K"]:
        xp = array_namespace(predicted_iou)
        masks = xp.arange(predicted_iou.shape[1], device=device(predicted_iou))
        best = xp.argmax(predicted_iou, axis=1, keepdims=True) == masks
        return best if min_iou is None else best & (predicted_iou > min_iou)

    return keep


def collect_masks(batches: Iterable[MaskProposals], most: int, side: int, like: Array) -> MaskProposals:
    """Copy masks one after the other into memory for all of them, so that no two copies of all exist.

    Args:
        batches: A few masks at a time.
        most: How many there may be.
        side: Of the masks, in their pixels.
        like: An array of their kind and on their device.
    """
    xp = array_namespace(like)
    sizes: tuple[tuple[int, ...], ...] = ((most, side, side), (most,))
    whole = MaskProposals(*(xp.empty(size, dtype=xp.float32, device=device(like)) for size in sizes))
    stop = 0
    for batch in batches:
        start, stop = stop, stop + len(batch.predicted_iou)
        whole.mask_logits[start:stop] = batch.mask_logits
        whole.predicted_iou[start:stop] = batch.predicted_iou
    return MaskProposals(whole.mask_logits[:stop], whole.predicted_iou[:stop])
