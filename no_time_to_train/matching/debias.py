"""Removing the positional component from patch features.

DINOv3's patch features carry where a patch lies beside what it shows, which draws unlike things in like places
together. The features of a blank image show position alone; what they span is projected out.

Source: INSID3, arXiv 2603.28480 (500 components at 1024 dimensions and 1024 px).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from no_time_to_train.configs.pipeline import DebiasConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.matching.array_ops import Array, array_namespace, as_float, as_like, normalize
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

    encode_blank: Callable[[int, int], Float[Array, "h w D"]]
    components: int | None = None
    _bases: dict[tuple[int, int], Array] = field(default_factory=dict, repr=False)

    @full_precision()
    def __call__(self, patches: Float[Array, "h w D"]) -> Float[Array, "h w D"]:
        """Return L2-normalised features without their positional component.

        Raises:
            ConfigError: More components than the features have dimensions.
        """
        grid = (patches.shape[0], patches.shape[1])
        if grid not in self._bases:
            self._bases[grid] = positional_basis(self.encode_blank(*grid), self.components)
        basis = as_like(self._bases[grid], patches)
        features = normalize(as_float(patches))
        return normalize(features - (features @ basis.T) @ basis)


def positional_basis(blank: Float[Array, "h w D"], components: int | None = None) -> Float[Array, "K D"]:
    """Return the leading directions of a blank image's features, orthonormal, strongest first.

    Args:
        blank: Patch features of a blank image.
        components: How many; in the published proportion to D when None. There are fewer where the grid has no more
            patches than that, and where the rest is rounding: position then spans fewer directions.

    Raises:
        ConfigError: None, or more than D - 1.
    """
    xp = array_namespace(blank)
    height, width, dim = blank.shape
    flat = normalize(xp.reshape(as_float(blank), (height * width, dim)))
    wanted = round(_COMPONENTS_PER_DIM * dim) if components is None else components
    if not 0 < wanted < dim:
        raise ConfigError(
            f"debias.components is {wanted}, expected 1 to {dim - 1} for features of {dim} dimensions",
            remedy="lower debias.components, or leave it out for the published proportion",
        )
    count = min(wanted, len(flat) - 1)
    _, strengths, directions = xp.linalg.svd(flat - xp.mean(flat, axis=0), full_matrices=False)
    # As NumPy's matrix_rank: directions of what float32 rounds off are others in every run.
    rounding = max(flat.shape) * float(np.finfo(np.float32).eps) * strengths[0]
    return directions[: min(count, int(xp.sum(strengths > rounding)))]
