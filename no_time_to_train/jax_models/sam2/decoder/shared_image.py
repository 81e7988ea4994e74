"""What all prompts on an image share in the decoder, layer by layer; computed once per image.

In every layer the image attends to the T tokens of a prompt through H heads: to each position a mixture of H * T rows
is added, and the sum is normalised. So a prompt's image after any number of layers is

    scale * shared + coefficients' rows + constant,

with `shared` the same for all prompts, `scale` and `coefficients` by position, and `rows` few. It is never written out:
attention and upscaling want products of it, which go through each part by itself, and the norm's variance is a
quadratic form. Rows are linear in the values of the attention that made them, so they are not written out either: what
is wanted of them is a map of those values. The shared part, the constant and the maps go through the layers here.

H heads of width d (H * d = I), C channels, L positions.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from no_time_to_train.jax_models.sam2.decoder.attention import Attention, heads_of_positions

# For each layer so far, maps of its heads' values, to which 1 is added as a last channel, for what is constant.
Maps = tuple[Float[Array, "1 H d1 _J"], ...]


class TokenToImage(NamedTuple):
    """An attention of tokens to the image.

    Attributes:
        keys: Of the shared part; before the first layer, of the positions too.
        positions: The positions' keys; None before the first layer.
        values: Of the shared part, without a bias.
        bias: The values' bias, and the constant's values.
        row_keys: From values to the keys of their rows.
        row_values: From values to the values of their rows.
    """

    keys: Float[Array, "1 H d L"]
    positions: Float[Array, "1 H d L"] | None
    values: Float[Array, "1 H L d"]
    bias: Float[Array, " I"]
    row_keys: Maps
    row_values: Maps


class ImageToToken(NamedTuple):
    """An attention of the image to tokens, and the norm that follows it.

    Attributes:
        queries: Of the shared part, scaled; before the first layer, of positions and biases too.
        positions: Queries of the positions, the constant and the bias, scaled; None before the first layer.
        crossings: From values to twice the mean over channels of their rows' product with the shared part.
        square: Mean square of the shared part over channels.
        row_queries: From earlier layers' values to the queries of their rows, scaled.
        rows: From values, this layer's included, to their rows, less the rows' means.
        eps: Of the norm.
    """

    queries: Float[Array, "1 H d L"]
    positions: Float[Array, "1 H d L"] | None
    crossings: Maps
    square: Float[Array, "1 L"]
    row_queries: Maps
    rows: Maps
    eps: float


class SharedImage(NamedTuple):
    """The shared part, the constant and the maps to rows, after the layers so far.

    Attributes:
        features: The shared part.
        constant: What is added at every position.
        rows: From values to their rows.
        positions: Are added to all queries and keys.
    """

    features: Float[Array, "L C"]
    constant: Float[Array, " C"]
    rows: Maps
    positions: Float[Array, "L C"]

    def token_to_image(self, attention: Attention) -> TokenToImage:
        """Prepare an attention of tokens to the image as it is now."""
        # A bias of keys, and what is constant of them, is the same for all positions, which softmax does not see.
        keys, positions = self._projected(attention, attention.k_proj.weight, self.positions)
        values = heads_of_positions(self.features @ attention.v_proj.weight.T, attention.num_heads)
        return TokenToImage(
            keys=keys,
            positions=positions,
            values=lax.transpose(values, (0, 1, 3, 2)),
            bias=attention.v_proj(self.constant),
            row_keys=self.row_maps(attention.k_proj.weight),
            row_values=self.row_maps(attention.v_proj.weight),
        )

    def image_to_token(self, attention: Attention, norm: eqx.nn.LayerNorm) -> tuple[ImageToToken, "SharedImage"]:
        """Prepare an attention of the image to tokens, and go through the norm that follows it."""
        assert norm.weight is not None
        assert norm.bias is not None
        assert attention.q_proj.bias is not None
        assert attention.o_proj.bias is not None
        factor = attention.width**-0.5
        weight, bias = attention.q_proj.weight * factor, attention.q_proj.bias * factor
        queries, positions = self._projected(attention, weight, self.positions + self.constant[None], bias)
        # A head's weights sum to 1, so that the shares of what is constant come together.
        constant = (self.constant + attention.o_proj.bias) / attention.num_heads
        dim = constant.shape[0]
        projection = lax.reshape(attention.o_proj.weight.T, (1, attention.num_heads, attention.width, dim))
        constants = lax.broadcast_in_dim(constant, (1, attention.num_heads, 1, dim), (3,))
        rows = tuple(centered(one) for one in (*self.rows, lax.concatenate([projection, constants], 2)))
        shared = centered(self.features)
        step = ImageToToken(
            queries=queries,
            positions=positions,
            crossings=tuple(one @ (shared * (2 / dim)).T for one in rows),
            square=jnp.mean(shared * shared, axis=1)[None],
            row_queries=self.row_maps(weight),
            rows=rows,
            eps=norm.eps,
        )
        scaled = tuple(one * norm.weight for one in rows)
        return step, SharedImage(shared * norm.weight[None], norm.bias, scaled, self.positions)

    def row_maps(self, weight: Float[Array, "J C"]) -> Maps:
        """Return maps from values to what a product with a matrix makes of their rows."""
        return tuple(one @ weight.T for one in self.rows)

    def _projected(
        self,
        attention: Attention,
        weight: Float[Array, "I C"],
        positions: Float[Array, "L C"],
        bias: Float[Array, " I"] | None = None,
    ) -> tuple[Float[Array, "1 H d L"], Float[Array, "1 H d L"] | None]:
        """Project the shared part and the positions; before the first layer, when nothing scales it, their sum."""
        first, heads = not self.rows, attention.num_heads
        shared = (self.features + positions if first else self.features) @ weight.T
        apart = positions @ weight.T
        if bias is not None:
            shared, apart = shared + bias[None] if first else shared, apart + bias[None]
        return heads_of_positions(shared, heads), None if first else heads_of_positions(apart, heads)


def centered(values: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Take the mean over the last axis away."""
    return values - jnp.mean(values, axis=-1, keepdims=True)
