"""Linear layers with an activation between them."""

from typing import Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.jax_models import layers


class FeedForward(eqx.Module):
    """A network of two or more linear layers, applied to every token by itself."""

    proj_in: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    proj_out: eqx.nn.Linear
    activation: Literal["relu", "gelu"] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        hidden: int,
        dim_out: int,
        depth: int,
        *,
        key: PRNGKeyArray,
        activation: Literal["relu", "gelu"] = "relu",
    ) -> None:
        keys = jax.random.split(key, depth)
        self.proj_in = eqx.nn.Linear(dim, hidden, key=keys[0])
        self.layers = tuple(eqx.nn.Linear(hidden, hidden, key=key) for key in keys[2:])
        self.proj_out = eqx.nn.Linear(hidden, dim_out, key=keys[1])
        self.activation = activation

    def __call__(self, tokens: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """Transform every token."""
        rows = layers.flatten_tokens(tokens)
        for layer in (self.proj_in, *self.layers):
            rows = layers.map_tokens(layer, rows)
            rows = jax.nn.relu(rows) if self.activation == "relu" else jax.nn.gelu(rows, approximate=False)
        rows = layers.map_tokens(self.proj_out, rows)
        return layers.reshaped(rows, (*tokens.shape[:-1], rows.shape[-1]), like=tokens)
