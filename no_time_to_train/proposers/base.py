"""What goes into and comes out of SAM2: image embeddings, prompts, masks."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from no_time_to_train.errors import ConfigError


class SelectedMasks(NamedTuple):
    """One mask per row.

    Attributes:
        mask_logits: float32, positive inside the mask, at a quarter of the model's input resolution.
        predicted_iou: float32 in [0, 1], the model's own estimate of the mask's IoU with the object.
    """

    mask_logits: Float[Tensor, "N Hm Wm"]
    predicted_iou: Float[Tensor, " N"]


@dataclass(frozen=True)
class MaskPredictions:
    """K masks for each of N prompts: 3, or 1 where a single mask was asked for.

    Attributes:
        mask_logits: float32, positive inside the mask, at a quarter of the model's input resolution.
        predicted_iou: float32 in [0, 1], the model's own estimate of each mask's IoU with the object.
    """

    mask_logits: Float[Tensor, "N K Hm Wm"]
    predicted_iou: Float[Tensor, "N K"]

    def best(self) -> SelectedMasks:
        """Take the mask of highest predicted IoU of each prompt."""
        predicted_iou, choice = self.predicted_iou.max(dim=1)
        rows = torch.arange(len(choice), device=choice.device)
        return SelectedMasks(self.mask_logits[rows, choice], predicted_iou)


@dataclass(frozen=True)
class ImageEmbedding:
    """What the mask decoder needs of B images; float32, whatever the encoder ran in.

    Attributes:
        features: Features at stride 16, with the embedding of "no memory" added unless the protocol says otherwise.
        high_res_features: Features at strides 4 and 8.
    """

    features: Float[Tensor, "B C Hf Wf"]
    high_res_features: tuple[Float[Tensor, "B C4 H4 W4"], Float[Tensor, "B C8 H8 W8"]]

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, index: int) -> "ImageEmbedding":
        """Take one image, which keeps its batch axis."""
        position = range(len(self))[index]
        rows = slice(position, position + 1)
        stride4, stride8 = self.high_res_features
        return ImageEmbedding(self.features[rows], (stride4[rows], stride8[rows]))

    def to(self, device: torch.device, dtype: torch.dtype) -> "ImageEmbedding":
        """Bring the embedding to a device and dtype."""
        stride4, stride8 = self.high_res_features
        return ImageEmbedding(self.features.to(device, dtype), (stride4.to(device, dtype), stride8.to(device, dtype)))


def point_grid(points_per_side: int, image_size: int) -> Float[Tensor, "N 2"]:
    """Place points at the centres of a square grid's cells.

    Args:
        points_per_side: Cells along each side; 32 gives 1024 points.
        image_size: Side of the model's square input, in pixels.

    Returns:
        x and y in pixels of the model's input, row by row, float32.

    Raises:
        ConfigError: `points_per_side` is less than 1.
    """
    if points_per_side < 1:
        raise ConfigError(f"points_per_side is {points_per_side}, expected at least 1", remedy="32 is usual")
    centres = (torch.arange(points_per_side, dtype=torch.float32) + 0.5) * (image_size / points_per_side)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


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

    points: Float[Tensor, "N P 2"] | None = None
    labels: Int[Tensor, "N P"] | None = None
    boxes: Float[Tensor, "N 4"] | None = None

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
            object.__setattr__(self, "labels", torch.ones(points.shape[:2], dtype=torch.int64, device=points.device))
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

    def to(self, device: torch.device) -> "Prompts":
        """Bring the prompts to a device, coordinates in float32."""
        return Prompts(
            None if self.points is None else self.points.to(device, torch.float32),
            None if self.labels is None else self.labels.to(device),
            None if self.boxes is None else self.boxes.to(device, torch.float32),
        )
