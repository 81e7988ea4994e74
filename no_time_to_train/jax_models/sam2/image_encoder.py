"""SAM2's image encoder whole: the Hiera, and the neck that brings its stages to one width."""

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.layers import Tap
from no_time_to_train.jax_models.sam2.hiera import Hiera


class Neck(eqx.Module):
    """A feature pyramid: each stage in the same width, with what coarser ones found added where the settings say so.

    Attributes:
        convs: From the coarsest stage to the finest.
        top_down_levels: Stages to which the next coarser level is added.
    """

    convs: tuple[eqx.nn.Conv2d, ...]
    top_down_levels: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        widths = architecture.embed_dims[::-1]
        keys = jax.random.split(key, len(widths))
        self.convs = tuple(
            eqx.nn.Conv2d(width, architecture.dim, 1, key=key) for width, key in zip(widths, keys, strict=True)
        )
        self.top_down_levels = architecture.top_down_levels

    def __call__(self, stages: tuple[Float[Array, "B _h _w _D"], ...]) -> list[Float[Array, "B C _h _w"]]:
        """Return the levels, from the finest to the coarsest."""
        levels: list[Float[Array, "B C _h _w"]] = []
        for level in reversed(range(len(stages))):
            convolution = self.convs[len(stages) - 1 - level]
            found = layers.convolve(convolution, lax.transpose(stages[level], (0, 3, 1, 2)))
            if levels and level in self.top_down_levels:
                found = found + _doubled(levels[0])
            levels.insert(0, found)
        return levels


class VisionEncoder(eqx.Module):
    """Hiera and neck."""

    backbone: Hiera
    neck: Neck

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        backbone_key, neck_key = jax.random.split(key)
        self.backbone = Hiera(architecture, key=backbone_key)
        self.neck = Neck(architecture, key=neck_key)

    def __call__(
        self, pixel_values: Float[Array, "B 3 S S"], tap: Tap = layers.no_tap
    ) -> list[Float[Array, "B C _h _w"]]:
        """Return the levels at strides 4, 8 and 16."""
        return self.neck(self.backbone(pixel_values, tap))[:3]


def _doubled(level: Float[Array, "B C h w"]) -> Float[Array, "B C H W"]:
    """Repeat every pixel along both sides."""
    batch, dim, height, width = level.shape
    fours = lax.broadcast_in_dim(level, (batch, dim, height, 2, width, 2), (0, 1, 2, 4))
    return layers.reshaped(fours, (batch, dim, 2 * height, 2 * width))
