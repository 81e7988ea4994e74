"""SAM2's image encoder, a Hiera: attention in windows, queries pooled where a stage begins, a few blocks global.

Fields have the names of transformers' `Sam2Model`, so that a leaf's name is that of its tensor.

Source: facebookresearch/sam2, `sam2/modeling/backbones/hieradet.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.layers import Tap
from no_time_to_train.jax_models.sam2.feed_forward import FeedForward

# Of bicubic interpolation, as torch has it.
_CUBIC = -0.75
# Queries that look at keys together; a global block has 4,096 at 1,024 pixels.
_MOST_QUERIES = 1024


class PatchEmbed(eqx.Module):
    """Patches that overlap: a convolution of 7 x 7 pixels, every 4 pixels."""

    projection: eqx.nn.Conv2d

    def __init__(self, dim: int, *, key: PRNGKeyArray) -> None:
        self.projection = eqx.nn.Conv2d(3, dim, 7, stride=4, padding=3, key=key)

    def __call__(self, pixel_values: Float[Array, "B 3 S S"]) -> Float[Array, "B h w D"]:
        """Embed the patches."""
        return lax.transpose(layers.convolve(self.projection, pixel_values), (0, 2, 3, 1))


class MultiScaleAttention(eqx.Module):
    """Attention among the tokens of a window, or of the whole image."""

    qkv: eqx.nn.Linear
    proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, dim: int, dim_out: int, num_heads: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key)
        self.qkv = eqx.nn.Linear(dim, 3 * dim_out, key=keys[0])
        self.proj = eqx.nn.Linear(dim_out, dim_out, key=keys[1])
        self.num_heads = num_heads

    def __call__(self, windows: Float[Array, "W s t D"], *, pool: bool) -> Float[Array, "W u v E"]:
        """Let tokens look at those of their window; with half as many queries along either side if they are pooled."""
        count = windows.shape[0]
        stacked = layers.map_linear(self.qkv, windows)
        query, key, value = (
            lax.slice_in_dim(stacked, start, start + stacked.shape[3] // 3, axis=3)
            for start in range(0, stacked.shape[3], stacked.shape[3] // 3)
        )
        if pool:
            query = max_pool(query)
        rows = [
            layers.reshaped(part, (count, part.shape[1] * part.shape[2], part.shape[3])) for part in (query, key, value)
        ]
        mixed = self._attend(*rows)
        return layers.map_linear(self.proj, layers.reshaped(mixed, query.shape, like=query))

    def _attend(
        self, query: Float[Array, "B N D"], key: Float[Array, "B M D"], value: Float[Array, "B M D"]
    ) -> Float[Array, "B N D"]:
        """Let queries look at keys, some queries at a time: the scores of all at once would be the peak of memory."""
        if query.shape[1] <= _MOST_QUERIES:
            return layers.attend(query, key, value, num_heads=self.num_heads)
        starts = range(0, query.shape[1], _MOST_QUERIES)
        some = [lax.slice_in_dim(query, start, min(start + _MOST_QUERIES, query.shape[1]), axis=1) for start in starts]
        return lax.concatenate([layers.attend(part, key, value, num_heads=self.num_heads) for part in some], 1)


class MultiScaleBlock(eqx.Module):
    """A transformer block over windows.

    Attributes:
        proj: Of the shortcut, where the width changes.
        window_size: Side of a window; 0 for the whole image.
        pool: Whether queries are pooled by 2 x 2.
    """

    layer_norm1: eqx.nn.LayerNorm
    attn: MultiScaleAttention
    layer_norm2: eqx.nn.LayerNorm
    mlp: FeedForward
    proj: eqx.nn.Linear | None
    window_size: int = eqx.field(static=True)
    pool: bool = eqx.field(static=True)

    def __call__(self, tokens: Float[Array, "B h w D"], tap: Tap = layers.no_tap) -> Float[Array, "B u v E"]:
        """Add what attention and feed-forward network give."""
        # Flat: of a norm's output that is shaped and flattened again nothing is left in a graph to be seen.
        tap("attn_in", rows := layers.map_tokens(self.layer_norm1, layers.flatten_tokens(tokens)))
        branch = layers.reshaped(rows, tokens.shape, like=tokens)
        if self.proj is not None:
            tokens = layers.map_linear(self.proj, branch)
            tokens = max_pool(tokens) if self.pool else tokens
        windows = into_windows(branch, self.window_size)
        windows = self.attn(windows, pool=self.pool)
        tap("attn_raw", branch := from_windows(windows, tokens))
        tap("post_attn", tokens := tokens + branch)
        tap("mlp_in", rows := layers.map_tokens(self.layer_norm2, layers.flatten_tokens(tokens)))
        tap("mlp_raw", branch := layers.reshaped(self.mlp(rows), tokens.shape, like=tokens))
        tap("output", tokens := tokens + branch)
        return tokens


class Hiera(eqx.Module):
    """The Hiera.

    Attributes:
        pos_embed: Coarse, interpolated to the image's size.
        pos_embed_window: Repeated over the image.
        stage_ends: Index of the last block of each stage.
    """

    patch_embed: PatchEmbed
    pos_embed: Float[Array, "1 D bh bw"]
    pos_embed_window: Float[Array, "1 D s s"]
    blocks: tuple[MultiScaleBlock, ...]
    stage_ends: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        patch_key, *keys = jax.random.split(key, 1 + sum(architecture.stage_depths))
        dim, window = architecture.embed_dims[0], architecture.window_sizes[0]
        self.patch_embed = PatchEmbed(dim, key=patch_key)
        self.pos_embed = jnp.zeros((1, dim, *architecture.background_size))
        self.pos_embed_window = jnp.zeros((1, dim, window, window))
        blocks: list[MultiScaleBlock] = []
        for stage, depth in enumerate(architecture.stage_depths):
            for first in (index == 0 for index in range(depth)):
                blocks.append(_block(architecture, stage, len(blocks), first=first, key=keys[len(blocks)]))
        self.blocks = tuple(blocks)
        self.stage_ends = tuple(int(end) - 1 for end in np.cumsum(architecture.stage_depths))

    def __call__(
        self, pixel_values: Float[Array, "B 3 S S"], tap: Tap = layers.no_tap
    ) -> tuple[Float[Array, "B _h _w _D"], ...]:
        """Encode a batch, and return the tokens after each stage.

        Args:
            pixel_values: Normalised, of the model's size.
            tap: Is told of the stages `embedding` and, a block, `attn_in`, `attn_raw`, `post_attn`, `mlp_in`,
                `mlp_raw` and `output`.
        """
        tokens = self.patch_embed(pixel_values)
        tap("embedding", tokens := tokens + self.positions(tokens.shape[1], tokens.shape[2]))
        stages = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, layers.block_tap(tap, index))
            if index in self.stage_ends:
                stages.append(tokens)
        return tuple(stages)

    def positions(self, height: int, width: int) -> Float[Array, "1 h w D"]:
        """Interpolate the coarse positions to the image's size, and repeat those of windows over it."""
        _, dim, rows, columns = self.pos_embed.shape
        dtype = self.pos_embed.dtype
        down, across = (
            jnp.asarray(bicubic_weights(before, after), dtype) for before, after in ((rows, height), (columns, width))
        )
        coarse = lax.transpose(lax.reshape(self.pos_embed, (dim, rows, columns)), (1, 2, 0))
        coarse = lax.reshape(down @ lax.reshape(coarse, (rows, columns * dim)), (height, columns, dim))
        coarse = across @ coarse
        side = self.pos_embed_window.shape[2]
        window = lax.transpose(lax.reshape(self.pos_embed_window, (dim, side, side)), (1, 2, 0))
        repeated = lax.broadcast_in_dim(window, (height // side, side, width // side, side, dim), (1, 3, 4))
        return lax.reshape(coarse + lax.reshape(repeated, coarse.shape), (1, height, width, dim))


def _block(
    architecture: Sam2Architecture, stage: int, index: int, *, first: bool, key: PRNGKeyArray
) -> MultiScaleBlock:
    """Build a block; the first of a stage has the width and the windows of the stage before."""
    begins = first and stage > 0
    before = stage - 1 if begins else stage
    dim, dim_out = architecture.embed_dims[before], architecture.embed_dims[stage]
    keys = jax.random.split(key, 3)
    return MultiScaleBlock(
        layer_norm1=eqx.nn.LayerNorm(dim, eps=architecture.layer_norm_eps),
        attn=MultiScaleAttention(dim, dim_out, architecture.stage_heads[stage], key=keys[0]),
        layer_norm2=eqx.nn.LayerNorm(dim_out, eps=architecture.layer_norm_eps),
        mlp=FeedForward(dim_out, int(dim_out * architecture.mlp_ratio), dim_out, 2, activation="gelu", key=keys[1]),
        proj=eqx.nn.Linear(dim, dim_out, key=keys[2]) if dim != dim_out else None,
        window_size=0 if index in architecture.global_blocks else architecture.window_sizes[before],
        pool=begins and stage <= architecture.pooled_stages,
    )


def max_pool(tokens: Float[Array, "B h w D"]) -> Float[Array, "B u v D"]:
    """Take the largest of each 2 x 2 tokens, channel by channel."""
    batch, height, width, dim = tokens.shape
    fours = layers.reshaped(tokens, (batch, height // 2, 2, width // 2, 2, dim))
    return jnp.max(fours, axis=(2, 4))


def into_windows(tokens: Float[Array, "B h w D"], size: int) -> Float[Array, "W s t D"]:
    """Cut images into windows, padded by zeros at the bottom and the right; an image is one window if `size` is 0."""
    if size == 0:
        return tokens
    batch, height, width, dim = tokens.shape
    down, across = -height % size, -width % size
    if down:
        zeros = layers.repeated(jnp.zeros((1, down, width, dim), tokens.dtype), tokens)
        tokens = lax.concatenate([tokens, zeros], 1)
    if across:
        zeros = layers.repeated(jnp.zeros((1, height + down, across, dim), tokens.dtype), tokens)
        tokens = lax.concatenate([tokens, zeros], 2)
    rows, columns = (height + down) // size, (width + across) // size
    cut = lax.transpose(layers.reshaped(tokens, (batch, rows, size, columns, size, dim)), (0, 1, 3, 2, 4, 5))
    return layers.reshaped(cut, (batch * rows * columns, size, size, dim))


def from_windows(windows: Float[Array, "W s t D"], like: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
    """Put windows back where `into_windows` took them from, without the padding; `like` has the images' sizes."""
    batch, height, width, dim = like.shape
    size = windows.shape[1]
    if (height, width) == windows.shape[1:3]:
        return windows
    rows, columns = -(-height // size), -(-width // size)
    whole = lax.transpose(layers.reshaped(windows, (batch, rows, columns, size, size, dim)), (0, 1, 3, 2, 4, 5))
    padded = layers.reshaped(whole, (batch, rows * size, columns * size, dim))
    return lax.slice_in_dim(lax.slice_in_dim(padded, 0, height, axis=1), 0, width, axis=2)


def bicubic_weights(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """Return the matrix that interpolates a row of numbers, as torch's bicubic interpolation does.

    Args:
        before: How many numbers there are.
        after: How many there will be.
    """
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    floor = np.floor(centres).astype(int)
    weights = np.zeros((after, before))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(centres - (floor + offset))
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        at = np.clip(floor + offset, 0, before - 1)
        np.add.at(weights, (np.arange(after), at), np.where(distance <= 1, near, far))
    return weights
