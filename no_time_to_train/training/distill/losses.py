"""How far a student's features are from its teacher's."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.training.distill.configs import LossConfig
from no_time_to_train.training.distill.features import DenseFeatures, feature_dims


class LossTerms(NamedTuple):
    """What the terms came to.

    Attributes:
        total: Their weighted sum.
        terms: Each by its name, unweighted.
        cls_cosine: Of each image.
        patch_cosine: Of each patch.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    cls_cosine: Float[Tensor, " B"]
    patch_cosine: Float[Tensor, "B h w"]


class DistillationLoss(nn.Module):
    """Compares features, for which the student's are projected to the teacher's width.

    The projections are the loss's own parameters: they learn along, and are not part of the student.

    Args:
        config: Weights of the terms.
        student: Whose features are projected.
        teacher: To whose width.
    """

    def __init__(self, config: LossConfig, student: EncoderConfig, teacher: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.cls = nn.Linear(student.embed_dim, teacher.embed_dim)
        self.patches = nn.Linear(student.embed_dim, teacher.embed_dim)
        for projection, weight in ((self.cls, config.cls), (self.patches, config.patches)):
            if not weight:  # it tells a cosine all the same, and has no gradient that processes would wait for
                projection.requires_grad_(False)
        narrow, wide = feature_dims(list(config.layers), student), feature_dims(list(config.layers.values()), teacher)
        self.layers = nn.ModuleDict(
            {f"{one}_{other}": nn.Linear(narrow[one], wide[other]) for one, other in config.layers.items()}
        )

    def forward(self, student: DenseFeatures, teacher: DenseFeatures) -> LossTerms:
        """Compare, in float32."""
        config = self.config
        cls = cosine(self.cls(student.cls), teacher.cls)
        patches = cosine(self.patches(resized(student.patches, teacher.patches)), teacher.patches)
        terms = {"cls": 1 - cls.mean(), "patches": 1 - patches.mean()}
        weights = {"cls": config.cls, "patches": config.patches}
        if config.gram:
            terms["gram"], weights["gram"] = gram_distance(student.patches, teacher.patches), config.gram
        if config.layers and config.layer:
            apart = []
            for name, projection in self.layers.items():
                one, other = (int(layer) for layer in name.split("_"))
                target = teacher.layers[other]
                apart.append(1 - cosine(projection(resized(student.layers[one], target)), target).mean())
            terms["layer"], weights["layer"] = torch.stack(apart).mean(), config.layer
        total = torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()
        return LossTerms(total, terms, cls.detach(), patches.detach())


def cosine(one: Float[Tensor, "... D"], other: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
    """Return the cosines of vectors, in float32."""
    return F.cosine_similarity(one.float(), other.float(), dim=-1)


def resized(patches: Float[Tensor, "B h w D"], like: Float[Tensor, "B H W E"]) -> Float[Tensor, "B H W D"]:
    """Bring features to another's grid, bilinearly; features of that grid are left as they are."""
    size = like.shape[1:3]
    if patches.shape[1:3] == size:
        return patches
    moved = F.interpolate(
        patches.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    return moved.permute(0, 2, 3, 1).to(patches.dtype)


def gram_distance(student: Float[Tensor, "B h w D"], teacher: Float[Tensor, "B H W E"]) -> Float[Tensor, ""]:
    """Return the mean square difference of the cosines between all patches of an image.

    Needs no projection: similarities are compared, not features. Source: the DINOv3 paper, section 4.
    """
    grams = []
    with torch.autocast(student.device.type, enabled=False):
        for patches in (resized(student, teacher), teacher):
            unit = F.normalize(patches.float().flatten(1, 2), dim=-1)
            grams.append(unit @ unit.transpose(1, 2))
        return (grams[0] - grams[1]).square().mean()
