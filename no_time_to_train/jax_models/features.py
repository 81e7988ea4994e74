"""What an Equinox encoder gives, and the parts that both families share."""

from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float


class EncoderFeatures(NamedTuple):
    """What an encoder gives for one image, all after the final norm.

    Attributes:
        cls: The CLS token; for a ConvNeXt the normed mean of the feature map.
        storage: The storage (register) tokens; S is 0 for encoders without.
        patches: The patch tokens on their grid, row by row.
    """

    cls: Float[Array, " D"]
    storage: Float[Array, "S D"]
    patches: Float[Array, "h w D"]


def over_tokens(layer: eqx.nn.Linear | eqx.nn.LayerNorm, tokens: Float[Array, "N D"]) -> Float[Array, "N E"]:
    """Apply a layer to every token."""
    return jax.vmap(layer)(tokens)


def over_pixels(layer: eqx.nn.Linear | eqx.nn.LayerNorm, pixels: Float[Array, "H W D"]) -> Float[Array, "H W E"]:
    """Apply a layer to the channels of every pixel."""
    return jax.vmap(jax.vmap(layer))(pixels)
