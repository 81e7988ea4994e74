"""The two-way transformer: a prompt's tokens look at the image, and the image looks at the tokens."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.decoder.attention import Attention
from no_time_to_train.jax_models.sam2.decoder.prompted_image import PromptedImage, attend_to_image, attend_to_tokens
from no_time_to_train.jax_models.sam2.decoder.shared_image import SharedImage
from no_time_to_train.jax_models.sam2.feed_forward import FeedForward

# Of torch's LayerNorm, which no setting changes.
_EPS = 1e-5


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
        given: Float[Array, "N T C"],
        shared: SharedImage,
        images: PromptedImage | None,
    ) -> tuple[Float[Array, "N T C"], SharedImage, PromptedImage]:
        """Go through the layer.

        Args:
            tokens: Of the prompts.
            given: The tokens before the first layer, which are added to all queries and keys.
            shared: What the prompts' images share.
            images: The prompts' images; before the first layer None, which knows no tokens yet.
        """
        if images is None:
            tokens = self.self_attn(given, given, given)
        else:
            asking = tokens + given
            tokens = tokens + self.self_attn(asking, asking, tokens)
        tokens = layers.map_norm(self.layer_norm1, tokens)
        to_image = self.cross_attn_token_to_image
        found = attend_to_image(to_image, shared.token_to_image(to_image), tokens + given, images)
        tokens = layers.map_norm(self.layer_norm2, tokens + found)
        tokens = layers.map_norm(self.layer_norm3, tokens + self.mlp(tokens))
        to_tokens = self.cross_attn_image_to_token
        step, shared = shared.image_to_token(to_tokens, self.layer_norm4)
        return tokens, shared, attend_to_tokens(to_tokens, step, tokens + given, tokens, images)


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
        self, given: Float[Array, "N T C"], features: Float[Array, "L C"], positions: Float[Array, "L C"]
    ) -> tuple[Float[Array, "N T C"], SharedImage, PromptedImage]:
        """Return the tokens after the last layer, and each prompt's image: what is shared of it, and its own.

        Args:
            given: The prompts' tokens.
            features: Of the image that they are on.
            positions: Of the image.
        """
        shared = SharedImage(features, jnp.zeros_like(features[0]), (), positions)
        tokens, images = given, None
        for layer in self.layers:
            tokens, shared, images = layer(tokens, given, shared, images)
        assert images is not None
        attention = self.final_attn_token_to_image
        found = attend_to_image(attention, shared.token_to_image(attention), tokens + given, images)
        return layers.map_norm(self.layer_norm_final_attn, tokens + found), shared, images
