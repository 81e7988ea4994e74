"""How well features tell classes apart: by the classes of their nearest neighbours."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_AT_A_TIME = 1024


def knn_accuracy(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, count: int = 10) -> float:
    """Return the share of images whose nearest others, weighted by their cosine, vote for their class.

    Each image is left out of its own vote. The weights are the softmax of cosines over a temperature of 0.07, as in
    the DINO papers.

    Args:
        features: One an image.
        labels: Classes from 0 on; images of no class (-1) neither vote nor count.
        count: Neighbours that vote.

    Returns:
        A share from 0 to 1; NaN where fewer than two images have a class.
    """
    known = labels >= 0
    unit, classes = F.normalize(features[known].float(), dim=1), labels[known]
    if len(unit) < 2:
        return float("nan")
    right = 0
    for begin in range(0, len(unit), _AT_A_TIME):
        rows = torch.arange(begin, min(begin + _AT_A_TIME, len(unit)), device=unit.device)
        cosines = unit[rows] @ unit.T
        cosines[rows - begin, rows] = -2.0
        nearest = cosines.topk(min(count, len(unit) - 1), dim=1)
        weights = (nearest.values / 0.07).softmax(dim=1)
        votes = torch.zeros(len(rows), int(classes.max()) + 1, device=unit.device)
        votes.scatter_add_(1, classes[nearest.indices], weights)
        right += int((votes.argmax(dim=1) == classes[rows]).sum())
    return right / len(unit)
