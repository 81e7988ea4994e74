"""What the tiny SAM2 is trained by: masks, their quality, and the features below them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

# Share of the loss of the two masks that are not the best one, so that no mask token stays behind.
_OTHERS = 0.1
_PAIR_PIXELS = 160


class MaskLosses(NamedTuple):
    """Losses of a batch of prompts, and how well it went.

    Attributes:
        mask: BCE and dice of the best mask of each prompt on an object.
        iou: Squared error of the predicted IoU, of all masks.
        object_score: BCE of whether there is an object at all.
        best_iou: Mean IoU of the best masks.
        chosen_iou: Mean IoU of the masks of highest predicted IoU.
    """

    mask: Float[Tensor, ""]
    iou: Float[Tensor, ""]
    object_score: Float[Tensor, ""]
    best_iou: Float[Tensor, ""]
    chosen_iou: Float[Tensor, ""]


def mask_losses(
    logits: Float[Tensor, "N K Hm Wm"],
    predicted_iou: Float[Tensor, "N K"],
    object_score: Float[Tensor, " N"],
    masks: Float[Tensor, "N Hm Wm"],
    on_object: Bool[Tensor, " N"],
) -> MaskLosses:
    """Compare K masks for each of N prompts with the true one.

    Args:
        logits: Positive inside the mask.
        predicted_iou: In [0, 1].
        object_score: Logits of there being an object.
        masks: Share of each cell that the object covers, 0-1.
        on_object: Prompts on the background teach an IoU of 0 and no mask.
    """
    target = masks[:, None].expand_as(logits)
    area = masks.sum(dim=(1, 2))[:, None]
    # By the object's own size, so that a small one counts as much as a large one.
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=(2, 3)) / (area + 8)
    shares = logits.sigmoid()
    dice = 1 - (2 * (shares * target).sum(dim=(2, 3)) + 1) / (shares.sum(dim=(2, 3)) + area + 1)
    per_mask = bce + dice
    best = per_mask.min(dim=1).values
    weight = on_object.float()
    total = weight.sum().clamp(min=1)
    mask = (((1 - _OTHERS) * best + _OTHERS * per_mask.mean(dim=1)) * weight).sum() / total
    with torch.no_grad():
        inside, true = logits > 0, target > 0.5
        union = (inside | true).sum(dim=(2, 3)).clamp(min=1)
        actual = (inside & true).sum(dim=(2, 3)) / union * weight[:, None]
        best_iou = actual.max(dim=1).values.sum() / total
        chosen_iou = actual.gather(1, predicted_iou.argmax(dim=1, keepdim=True)).sum() / total
    iou = functional.mse_loss(predicted_iou, actual)
    score = functional.binary_cross_entropy_with_logits(object_score, weight)
    return MaskLosses(mask, iou, score, best_iou, chosen_iou)


class PixelHeads(nn.Module):
    """Heads on a feature map that are thrown away after training.

    One tells objects from the background, the other gives embeddings that are alike where two pixels show the same
    object. Both bring the masks' gradient to the backbone long before prompts are understood.

    Args:
        width: Channels of the feature map.
        embedding: Channels of the embedding.
    """

    def __init__(self, width: int, embedding: int = 16) -> None:
        super().__init__()
        self.foreground = nn.Conv2d(width, 1, 1)
        self.embedding = nn.Conv2d(width, embedding, 1)
        self.scale = nn.Parameter(torch.tensor([4.0, 0.0]))

    def forward(self, features: Float[Tensor, "B C H W"], instances: UInt8[Tensor, "B S S"]) -> Float[Tensor, ""]:
        """Return the sum of both losses; `instances` at any resolution is sampled at the features' cells."""
        labels = functional.interpolate(instances[:, None].float(), features.shape[2:], mode="nearest-exact")[:, 0]
        found = self.foreground(features)[:, 0].float()
        foreground = functional.binary_cross_entropy_with_logits(found, (labels > 0).float())
        # Half of the pixels of the pairs from objects, where there is something to tell apart.
        weights = torch.where(
            labels > 0, 1 / (labels > 0).sum(dim=(1, 2), keepdim=True).clamp(min=1), 1 / labels[0].numel()
        )
        chosen = torch.multinomial(weights.flatten(1), _PAIR_PIXELS, replacement=True)
        vectors = self.embedding(features).flatten(2).float()
        vectors = vectors.gather(2, chosen[:, None].expand(-1, vectors.shape[1], -1))
        picked = labels.flatten(1).gather(1, chosen)
        vectors = functional.normalize(vectors, dim=1)
        logits = self.scale[0] * (vectors.transpose(1, 2) @ vectors) + self.scale[1]
        same = (picked[:, :, None] == picked[:, None]).float()
        some = ((picked[:, :, None] > 0) | (picked[:, None] > 0)).float()
        pairs = functional.binary_cross_entropy_with_logits(
            logits, same, weight=some, reduction="sum"
        ) / some.sum().clamp(min=1)
        return foreground + pairs
