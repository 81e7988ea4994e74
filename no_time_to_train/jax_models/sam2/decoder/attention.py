"""The decoder's attention: its projections, and the arrangement of heads."""

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.jax_models import layers


class Attention(eqx.Module):
    """Attention in a width that may be less than the tokens'."""

    q_proj: eqx.nn.Linear
    k_proj: eqx.nn.Linear
    v_proj: eqx.nn.Linear
    o_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, dim: int, inner: int, num_heads: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 4)
        self.q_proj, self.k_proj, self.v_proj = (eqx.nn.Linear(dim, inner, key=key) for key in keys[:3])
        self.o_proj = eqx.nn.Linear(inner, dim, key=keys[3])
        self.num_heads = num_heads

    @property
    def width(self) -> int:
        """Of a head."""
        return int(self.q_proj.out_features) // self.num_heads

    def __call__(
        self, query: Float[Array, "N T C"], key: Float[Array, "N T C"], value: Float[Array, "N T C"]
    ) -> Float[Array, "N T C"]:
        """Let tokens look at tokens."""
        projections = ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        mixed = layers.attend(
            *(layers.map_linear(layer, tokens) for layer, tokens in projections), num_heads=self.num_heads
        )
        return layers.map_linear(self.o_proj, mixed)


def split_heads(tokens: Float[Array, "N R I"], num_heads: int) -> Float[Array, "N H R d"]:
    """Put the heads before the tokens."""
    count, number, inner = tokens.shape
    return lax.transpose(layers.reshaped(tokens, (count, number, num_heads, inner // num_heads)), (0, 2, 1, 3))


def join_heads(tokens: Float[Array, "N H T d"]) -> Float[Array, "N T I"]:
    """Put the heads side by side."""
    count, heads, number, width = tokens.shape
    return layers.reshaped(lax.transpose(tokens, (0, 2, 1, 3)), (count, number, heads * width))


def heads_of_positions(positions: Float[Array, "L I"], num_heads: int) -> Float[Array, "1 H d L"]:
    """Put the heads first and the positions last."""
    length, inner = positions.shape
    return lax.reshape(lax.transpose(positions, (1, 0)), (1, num_heads, inner // num_heads, length))
