"""From a prompt's image at stride 16 to its masks at stride 4, a band of rows at a time.

Each pixel becomes two by two, twice, by products of matrices. Pixels of one row are computed together, so that rows of
masks come out whole. What is computed of a band stays in a core's cache.
"""

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.decoder.prompted_image import PromptedImage, project_values
from no_time_to_train.jax_models.sam2.decoder.shared_image import SharedImage

_BAND_POSITIONS = 512


class Upscaling(eqx.Module):
    """A transposed convolution of 2 x 2 pixels, every 2 pixels: each pixel becomes four, by a matrix product."""

    weight: Float[Array, "C_in C_out 2 2"]
    bias: Float[Array, " C_out"]

    def __init__(self, dim: int, dim_out: int, *, key: PRNGKeyArray) -> None:
        self.weight = jax.random.normal(key, (dim, dim_out, 2, 2)) / dim**0.5
        self.bias = jnp.zeros(dim_out)

    @property
    def matrices(self) -> list[Float[Array, "C_in C_out2"]]:
        """What makes of a pixel the two of its upper row, and the two of its lower row."""
        dim, dim_out = self.weight.shape[:2]
        by_rows = lax.transpose(self.weight, (2, 0, 3, 1))
        return [lax.reshape(by_rows[row], (dim, 2 * dim_out)) for row in range(2)]


class MaskUpscaling(NamedTuple):
    """The layers that upscale.

    Attributes:
        first: To stride 8.
        second: To stride 4.
        norm: Between them.
    """

    first: Upscaling
    second: Upscaling
    norm: eqx.nn.LayerNorm

    def draw_masks(
        self,
        shared: SharedImage,
        images: PromptedImage,
        filters: Float[Array, "N K C4"],
        stride4: Float[Array, "C4 H4 W4"],
        stride8: Float[Array, "C8 H8 W8"],
    ) -> Float[Array, "N K H4 W4"]:
        """Upscale each prompt's image, and draw its masks, each by its filter.

        Args:
            shared: What the prompts share of their images.
            images: The prompts' images.
            filters: Of their masks.
            stride4: The image at stride 4, which is added.
            stride8: The image at stride 8, which is added.
        """
        _, height4, width4 = stride4.shape
        height, width = height4 // 4, width4 // 4
        shared_parts, own_parts, added_parts = [], [], []
        for matrix, level in zip(self.first.matrices, _rows(stride8, 2), strict=True):
            # Of the position's upper row, then of its lower row: two pixels.
            own_parts.append(lax.concatenate(project_values(images.values, shared.row_maps(matrix.T)), 1))
            shared_parts.append(shared.features @ matrix)
            constant = shared.constant @ matrix + jnp.concatenate([self.first.bias, self.first.bias])
            added_parts.append(lax.reshape(level, (height * width, matrix.shape[1])) + constant[None])
        levels = [level + self.second.bias[None] for level in _rows(stride4, 4)]
        bands = []
        for top, number in _bands(height, width):
            start, end = top * width, (top + number) * width
            coefficients = lax.concatenate([one[:, :, start:end] for one in images.coefficients], 1)
            scale = lax.slice_in_dim(images.scale, start, end, axis=1)[:, :, None]
            drawn = []
            for row, (own, image, added) in enumerate(zip(own_parts, shared_parts, added_parts, strict=True)):
                small = layers.matmul(lax.transpose(coefficients, (0, 2, 1)), own)
                small = small + scale * image[None, start:end] + added[None, start:end]
                fine = [level[4 * start : 4 * end] for level in levels[2 * row : 2 * row + 2]]
                drawn += self._draw_rows(small, fine, filters)
            count, masks, _ = drawn[0].shape
            lines = [layers.reshaped(one, (count, masks, number, 1, width4)) for one in drawn]
            bands.append(layers.reshaped(lax.concatenate(lines, 3), (count, masks, 4 * number, width4)))
        return lax.concatenate(bands, 2)

    def _draw_rows(
        self, small: Float[Array, "N P C8x2"], fine: list[Float[Array, "P4 C4"]], filters: Float[Array, "N K C4"]
    ) -> list[Float[Array, "N K P4"]]:
        """Draw the two rows of masks that a row at stride 8 becomes, two pixels of it to each position."""
        count, positions, _ = small.shape
        small = layers.reshaped(small, (count, 2 * positions, self.first.bias.shape[0]))
        small = layers.flatten_tokens(jax.nn.gelu(layers.map_norm(self.norm, small), approximate=False))
        drawn = []
        for matrix, level in zip(self.second.matrices, fine, strict=True):
            large = layers.reshaped(small @ matrix, (count, 4 * positions, self.second.bias.shape[0]))
            large = jax.nn.gelu(large + level[None], approximate=False)
            drawn.append(layers.matmul(filters, lax.transpose(large, (0, 2, 1))))
        return drawn


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut a map into bands: the first row of each, and how many it has."""
    rows = max(1, _BAND_POSITIONS // width)
    for top in range(0, height, rows):
        yield top, min(rows, height - top)


def _rows(level: Float[Array, "C H W"], factor: int) -> list[Float[Array, "P C"]]:
    """Split a map by the row that a pixel has within its position, which has `factor` of them."""
    dim, height, width = level.shape
    split = lax.transpose(lax.reshape(level, (dim, height // factor, factor, width)), (2, 1, 3, 0))
    return [lax.reshape(split[row], (height // factor * width, dim)) for row in range(factor)]
