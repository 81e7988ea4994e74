"""Removing the positional component from patch features.

DINOv3's patch features carry where a patch lies beside what it shows, which draws unlike things in like places
together. The features of a blank image show position alone; what they span is projected out.

Source: INSID3, arXiv 2603.28480 (500 components at 1024 dimensions and 1024 px).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.pipeline import DebiasConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching.precision import full_precision

__all__ = ["DebiasConfig", "PositionalDebias", "positional_basis"]

_COMPONENTS_PER_DIM = 500 / 1024


@dataclass
class PositionalDebias:
    """Projects patch features on the complement of what a blank image spans, one basis per patch grid.

    Args:
        encode_blank: Gives the patch features (h, w, D) of a blank image for a patch grid of h rows and w columns.
        components: As in `DebiasConfig`.
    """

    encode_blank: Callable[[int, int], Float[Tensor, "h w D"]]
    components: int | None = None
    _bases: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @full_precision()
    def __call__(self, patches: Float[Tensor, "h w D"]) -> Float[Tensor, "h w D"]:
        """Return L2-normalised features without their positional component.

        Raises:
            ConfigError: More components than the features have dimensions.
        """
        grid = (patches.shape[0], patches.shape[1])
        if grid not in self._bases:
            self._bases[grid] = positional_basis(self.encode_blank(*grid), self.components)
        basis = self._bases[grid].to(patches.device)
        features = F.normalize(patches.float(), dim=-1)
        return F.normalize(features - (features @ basis.T) @ basis, dim=-1)


def positional_basis(blank: Float[Tensor, "h w D"], components: int | None = None) -> Float[Tensor, "K D"]:
    """Return the leading directions of a blank image's features, orthonormal, strongest first.

    Args:
        blank: Patch features of a blank image.
        components: How many; in the published proportion to D when None. A grid of fewer patches has fewer: at most
            one less than its patches.

    Raises:
        ConfigError: None, or more than D - 1.
    """
    flat = F.normalize(blank.float().flatten(0, 1), dim=-1)
    dim = flat.shape[1]
    wanted = round(_COMPONENTS_PER_DIM * dim) if components is None else components
    if not 0 < wanted < dim:
        raise ConfigError(
            f"debias.components is {wanted}, expected 1 to {dim - 1} for features of {dim} dimensions",
            remedy="lower debias.components, or leave it out for the published proportion",
        )
    count = min(wanted, len(flat) - 1)
    _, _, directions = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    leading: Tensor = directions[:count]
    return leading
