"""DINOv3's ViT as an Equinox module, of any size: a batch as `tokens`, one image as a call.

Source: the architecture of facebookresearch/dinov3 at 6876159, in the field names of this package's key maps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.encoders import Architecture, EncoderConfig
from no_time_to_train.configs.image_size import check_image_size, grid_size
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.features import EncoderFeatures, features_of
from no_time_to_train.jax_models.layers import Rope, Tap, map_tokens
from no_time_to_train.weights.rope import rope_periods


class Attention(eqx.Module):
    """Self-attention with rotary position embedding on the patch tokens."""

    q_proj: eqx.nn.Linear
    k_proj: eqx.nn.Linear
    v_proj: eqx.nn.Linear
    o_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, dim: int, num_heads: int, *, query_bias: bool, key_bias: bool, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 4)
        self.q_proj = eqx.nn.Linear(dim, dim, use_bias=query_bias, key=keys[0])
        self.k_proj = eqx.nn.Linear(dim, dim, use_bias=key_bias, key=keys[1])
        self.v_proj = eqx.nn.Linear(dim, dim, use_bias=query_bias, key=keys[2])
        self.o_proj = eqx.nn.Linear(dim, dim, key=keys[3])
        self.num_heads = num_heads

    def __call__(self, tokens: Float[Array, "T D"], rope: Rope) -> Float[Array, "T D"]:
        """Let every token look at all tokens of its image; T is B·N."""
        images = (*rope[0].shape[:2], tokens.shape[1])
        query, key, value = (
            layers.reshaped(map_tokens(projection, tokens), images, like=rope[0])
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = layers.attend(query, key, value, *rope, num_heads=self.num_heads)
        return map_tokens(self.o_proj, layers.reshaped(mixed, tokens.shape))


class Mlp(eqx.Module):
    """The feed-forward network: GELU, or gated by SiLU where there is a gate."""

    gate_proj: eqx.nn.Linear | None
    up_proj: eqx.nn.Linear
    down_proj: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(self, dim: int, hidden: int, *, gated: bool, activation: str, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 3)
        self.gate_proj = eqx.nn.Linear(dim, hidden, key=keys[0]) if gated else None
        self.up_proj = eqx.nn.Linear(dim, hidden, key=keys[1])
        self.down_proj = eqx.nn.Linear(hidden, dim, key=keys[2])
        self.activation = activation

    def __call__(self, tokens: Float[Array, "T D"]) -> Float[Array, "T D"]:
        """Transform every token by itself."""
        hidden = map_tokens(self.up_proj, tokens)
        if self.gate_proj is None:
            hidden = _activated(hidden, self.activation)
        else:
            hidden = _activated(map_tokens(self.gate_proj, tokens), self.activation) * hidden
        return map_tokens(self.down_proj, hidden)


class Block(eqx.Module):
    """A transformer block, its branches scaled by learned factors."""

    norm1: eqx.nn.LayerNorm
    attention: Attention
    layer_scale1: Float[Array, " D"]
    norm2: eqx.nn.LayerNorm
    mlp: Mlp
    layer_scale2: Float[Array, " D"]

    def __call__(self, tokens: Float[Array, "T D"], rope: Rope, tap: Tap = layers.no_tap) -> Float[Array, "T D"]:
        """Add what attention and feed-forward network give."""
        tap("attn_in", branch := map_tokens(self.norm1, tokens))
        tap("attn_raw", branch := self.attention(branch, rope))
        tap("attn_scaled", branch := layers.scaled(branch, self.layer_scale1))
        tap("post_attn", tokens := tokens + branch)
        tap("mlp_in", branch := map_tokens(self.norm2, tokens))
        tap("mlp_raw", branch := self.mlp(branch))
        tap("mlp_scaled", branch := layers.scaled(branch, self.layer_scale2))
        tap("output", tokens := tokens + branch)
        return tokens


class DinoV3ViT(eqx.Module):
    """DINOv3's ViT.

    Attributes:
        rope_periods: In the dtype in which they were stored; angles are computed in float32.
        mask_token: Of no use at inference; None where the weights have none.
        config: The registry entry, or one made for this architecture.
        architecture: What the weights show.
        layer_norm_eps: Of all norms.
        rope_theta: The base of the RoPE periods.
        periods_stored: Whether the weights came with RoPE periods, or they were computed.
    """

    patch_embed: eqx.nn.Conv2d
    cls_token: Float[Array, "1 1 D"]
    storage_tokens: Float[Array, "1 S D"]
    mask_token: Float[Array, "1 1 D"] | None
    rope_periods: Float[Array, " quarter_head"]
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    config: EncoderConfig = eqx.field(static=True)
    architecture: Architecture = eqx.field(static=True)
    layer_norm_eps: float = eqx.field(static=True)
    rope_theta: float = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    periods_stored: bool = eqx.field(static=True)

    def __init__(
        self,
        architecture: Architecture,
        config: EncoderConfig,
        *,
        key: PRNGKeyArray,
        layer_norm_eps: float = 1e-5,
        rope_theta: float = 100.0,
        activation: str | None = None,
        with_mask_token: bool = True,
        periods_stored: bool = False,
    ) -> None:
        self.config, self.architecture = config, architecture
        self.layer_norm_eps, self.rope_theta, self.periods_stored = layer_norm_eps, rope_theta, periods_stored
        self.activation = activation or ("silu" if architecture.ffn == "swiglu" else "gelu")
        dim, patch = architecture.embed_dim, architecture.patch_size
        embed_key, cls_key, storage_key, *keys = jax.random.split(key, 3 + architecture.depth)
        self.patch_embed = eqx.nn.Conv2d(3, dim, patch, stride=patch, key=embed_key)
        self.cls_token = 0.02 * jax.random.normal(cls_key, (1, 1, dim))
        self.storage_tokens = 0.02 * jax.random.normal(storage_key, (1, architecture.num_storage_tokens, dim))
        self.mask_token = jnp.zeros((1, 1, dim)) if with_mask_token else None
        self.rope_periods = jnp.asarray(rope_periods(config.embed_dim // config.num_heads, rope_theta))
        self.blocks = tuple(self._block(key) for key in keys)
        self.norm = eqx.nn.LayerNorm(dim, eps=layer_norm_eps)

    def _block(self, key: PRNGKeyArray) -> Block:
        architecture, dim = self.architecture, self.architecture.embed_dim
        attention_key, mlp_key = jax.random.split(key)
        return Block(
            norm1=eqx.nn.LayerNorm(dim, eps=self.layer_norm_eps),
            attention=Attention(
                dim,
                self.config.num_heads,
                query_bias=architecture.query_bias,
                key_bias=architecture.key_bias,
                key=attention_key,
            ),
            layer_scale1=jnp.ones(dim),
            norm2=eqx.nn.LayerNorm(dim, eps=self.layer_norm_eps),
            mlp=Mlp(
                dim, architecture.ffn_dim, gated=architecture.ffn == "swiglu", activation=self.activation, key=mlp_key
            ),
            layer_scale2=jnp.ones(dim),
        )

    def __call__(self, pixel_values: Float[Array, "3 H W"]) -> EncoderFeatures:
        """Encode one image.

        Args:
            pixel_values: RGB, normalised by the entry's mean and standard deviation; sides of whole patches.

        Raises:
            ImageSizeError: H or W is not a multiple of the patch size.
        """
        height, width = pixel_values.shape[-2:]
        check_image_size(height, width, self.config)
        return features_of(self.tokens(pixel_values[None])[0], grid_size(height, width, self.config))

    def tokens(self, pixel_values: Float[Array, "B 3 H W"], tap: Tap = layers.no_tap) -> Float[Array, "B N D"]:
        """Encode a batch: the CLS token, the storage tokens and the patches, after the final norm.

        Args:
            pixel_values: As for a call, whose size is not checked: what does not fill a patch is left out.
            tap: Is told of the stages `embedding` and, a block, `attn_in`, `attn_raw`, `attn_scaled`, `post_attn`,
                `mlp_in`, `mlp_raw`, `mlp_scaled` and `output`; tokens of all images one after another.
        """
        dtype, dim = self.patch_embed.weight.dtype, self.architecture.embed_dim
        patches = lax.transpose(layers.convolve(self.patch_embed, pixel_values.astype(dtype)), (0, 2, 3, 1))
        batch, *grid, _ = patches.shape
        patches = layers.reshaped(patches, (batch, grid[0] * grid[1], dim))
        prefix = self.cls_token
        if self.storage_tokens.shape[1]:
            prefix = lax.concatenate([prefix, self.storage_tokens], 1)
        prefix = lax.broadcast_in_dim(prefix, (batch, *prefix.shape[1:]), (0, 1, 2))
        tokens = lax.concatenate([prefix, patches], 1)
        angles = layers.rope_angles(
            self.rope_periods,
            pixel_values,
            patch_size=self.architecture.patch_size,
            num_prefix=prefix.shape[1],
        )
        cosines, sines = (
            lax.broadcast_in_dim(values.astype(dtype), (batch, *values.shape), (1, 2))
            for values in (jnp.cos(angles), jnp.sin(angles))
        )
        tap("embedding", stream := layers.flatten_tokens(tokens))
        for index, block in enumerate(self.blocks):
            stream = block(stream, (cosines, sines), layers.block_tap(tap, index))
        return layers.reshaped(map_tokens(self.norm, stream), tokens.shape, like=tokens)


def _activated(hidden: Float[Array, "T F"], activation: str) -> Float[Array, "T F"]:
    if activation == "silu":
        return jax.nn.silu(hidden)
    return jax.nn.gelu(hidden, approximate=False)
