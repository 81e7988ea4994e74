"""The two-way transformer: a prompt's tokens look at the image, and the image looks at the tokens."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.feed_forward import FeedForward

# Of torch's LayerNorm, which no setting changes.
_EPS = 1e-5


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

    def __call__(
        self, query: Float[Array, "N Q C"], key: Float[Array, "N K C"], value: Float[Array, "N K C"]
    ) -> Float[Array, "N Q C"]:
        """Let each query look at the keys."""
        projections = ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        mixed = layers.attend(
            *(layers.map_linear(layer, tokens) for layer, tokens in projections), num_heads=self.num_heads
        )
        return layers.map_linear(self.o_proj, mixed)


class TwoWayBlock(eqx.Module):
    """A layer: tokens among themselves, tokens to the image, each by itself, the image to tokens."""

    self_attn: Attention
    layer_norm1: eqx.nn.LayerNorm
    cross_attn_token_to_image: Attention
    layer_norm2: eqx.nn.LayerNorm
    mlp: FeedForward
    layer_norm3: eqx.nn.LayerNorm
    layer_norm4: eqx.nn.LayerNorm
    cross_attn_image_to_token: Attention

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        dim, heads = architecture.dim, architecture.num_heads
        inner = dim // architecture.downsample_rate
        keys = jax.random.split(key, 4)
        self.self_attn = Attention(dim, dim, heads, key=keys[0])
        self.cross_attn_token_to_image = Attention(dim, inner, heads, key=keys[1])
        self.cross_attn_image_to_token = Attention(dim, inner, heads, key=keys[2])
        # transformers makes it as deep as the decoder has layers.
        self.mlp = FeedForward(dim, architecture.mlp_dim, dim, architecture.num_layers, key=keys[3])
        self.layer_norm1, self.layer_norm2, self.layer_norm3, self.layer_norm4 = (
            eqx.nn.LayerNorm(dim, eps=_EPS) for _ in range(4)
        )

    def __call__(
        self,
        tokens: Float[Array, "N T C"],
        image: Float[Array, "N L C"],
        given: Float[Array, "N T C"],
        positions: Float[Array, "N L C"],
        *,
        first: bool,
    ) -> tuple[Float[Array, "N T C"], Float[Array, "N L C"]]:
        """Go through the layer.

        Args:
            tokens: Of the prompts.
            image: Of each prompt.
            given: The tokens before the first layer, which are added to all queries and keys.
            positions: Likewise for the image.
            first: Whether this is the first layer, which knows no tokens yet.
        """
        if first:
            tokens = self.self_attn(given, given, given)
        else:
            asking = tokens + given
            tokens = tokens + self.self_attn(asking, asking, tokens)
        tokens = layers.map_norm(self.layer_norm1, tokens)
        found = self.cross_attn_token_to_image(tokens + given, image + positions, image)
        tokens = layers.map_norm(self.layer_norm2, tokens + found)
        tokens = layers.map_norm(self.layer_norm3, tokens + self.mlp(tokens))
        found = self.cross_attn_image_to_token(image + positions, tokens + given, tokens)
        return tokens, layers.map_norm(self.layer_norm4, image + found)


class TwoWayTransformer(eqx.Module):
    """The layers, and a last look of the tokens at the image."""

    layers: tuple[TwoWayBlock, ...]
    final_attn_token_to_image: Attention
    layer_norm_final_attn: eqx.nn.LayerNorm

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        last, *keys = jax.random.split(key, 1 + architecture.num_layers)
        self.layers = tuple(TwoWayBlock(architecture, key=key) for key in keys)
        inner = architecture.dim // architecture.downsample_rate
        self.final_attn_token_to_image = Attention(architecture.dim, inner, architecture.num_heads, key=last)
        self.layer_norm_final_attn = eqx.nn.LayerNorm(architecture.dim, eps=_EPS)

    def __call__(
        self, given: Float[Array, "N T C"], image: Float[Array, "1 L C"], positions: Float[Array, "1 L C"]
    ) -> tuple[Float[Array, "N T C"], Float[Array, "N L C"]]:
        """Return the tokens and each prompt's image after the last layer."""
        tokens, image, positions = given, layers.repeated(image, given), layers.repeated(positions, given)
        for index, layer in enumerate(self.layers):
            tokens, image = layer(tokens, image, given, positions, first=index == 0)
        found = self.final_attn_token_to_image(tokens + given, image + positions, image)
        return layers.map_norm(self.layer_norm_final_attn, tokens + found), image
