"""Layers over batches, in operations that hold for sizes that are not known yet: `jax.export`'s symbols go through.

That is why `lax` stands here where `jnp` would be shorter: `jnp` broadcasts and indexes by asking for sizes.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

Rope = tuple[Float[Array, "B N half_head"], Float[Array, "B N half_head"]]
# What is told of every stage that a model goes through: its name, and what comes out.
Tap = Callable[[str, Array], None]


def no_tap(name: str, values: Array) -> None:
    """Let a stage pass unseen."""


def block_tap(tap: Tap, block: int) -> Tap:
    """Return what names the stages of a block, such as `blocks.0.attn_in`."""
    return lambda name, values: tap(f"blocks.{block}.{name}", values)


def map_tokens(layer: eqx.nn.Linear | eqx.nn.LayerNorm, tokens: Float[Array, "T D"]) -> Float[Array, "T E"]:
    """Apply a layer to every token."""
    return jax.vmap(layer)(tokens)


def map_linear(layer: eqx.nn.Linear, tokens: Float[Array, "... D"]) -> Float[Array, "... E"]:
    """Apply a linear layer to every token, whatever their places."""
    rows = map_tokens(layer, flatten_tokens(tokens))
    return reshaped(rows, (*tokens.shape[:-1], rows.shape[-1]), like=tokens)


def map_norm(layer: eqx.nn.LayerNorm, tokens: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalise every token, whatever their places."""
    return reshaped(map_tokens(layer, flatten_tokens(tokens)), tokens.shape, like=tokens)


def convolve(layer: eqx.nn.Conv2d, images: Float[Array, "B C H W"]) -> Float[Array, "B D h w"]:
    """Apply a convolution to a batch."""
    convolved = lax.conv_general_dilated(
        images,
        layer.weight,
        window_strides=layer.stride,
        padding=layer.padding,
        feature_group_count=layer.groups,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return convolved if layer.bias is None else convolved + lax.reshape(layer.bias, (1, *layer.bias.shape))


def reshaped(values: Array, shape: tuple[int, ...], like: Array | None = None) -> Array:
    """Reshape an array.

    Args:
        values: An array.
        shape: Of the result. While a graph is traced sizes may be unknown: of those that do not stand at the same
            place in the array's own shape one can be inferred; where there are more, `like` tells them.
        like: An array whose shape begins with all sizes that are not known.
    """
    return lax.reshape(values, shape)


def repeated(values: Shaped[Array, "1 ..."], like: Array) -> Shaped[Array, "N ..."]:
    """Repeat an array of one row as often as another one has rows."""
    return lax.broadcast_in_dim(lax.squeeze(values, (0,)), (like.shape[0], *values.shape[1:]), range(1, values.ndim))


def matmul(left: Float[Array, "*N Q D"], right: Float[Array, "*#N D K"]) -> Float[Array, "*N Q K"]:
    """Multiply matrices; the right one may be the same for several of the left."""
    return jnp.matmul(left, right)


def flatten_tokens(tokens: Float[Array, "... D"]) -> Float[Array, "T D"]:
    """Put one token after another, so that every linear layer is a product of two matrices."""
    *places, dim = tokens.shape
    return reshaped(tokens, (math.prod(places), dim))


def scaled(tokens: Float[Array, "T D"], factors: Float[Array, " D"]) -> Float[Array, "T D"]:
    """Multiply every token by the factors of its channels."""
    return tokens * lax.reshape(factors, (1, *factors.shape))


def rope_angles(
    periods: Float[Array, " quarter_head"],
    pixel_values: Float[Array, "B 3 H W"],
    *,
    patch_size: int,
    num_prefix: int,
) -> Float[Array, "N half_head"]:
    """Return the angles that queries and keys are turned by: by the centres of patches in [-1, 1], in float32.

    Args:
        periods: Of the waves along either axis.
        pixel_values: Whose size gives the grid of patches.
        patch_size: Side of a patch in pixels.
        num_prefix: Tokens before the patches, which are not turned.
    """
    grid = [side // patch_size for side in pixel_values.shape[2:]]
    quarter = periods.shape[0]
    waves = lax.reshape(periods.astype(jnp.float32), (1, 1, quarter))
    angles = []
    for axis, side in enumerate(grid):
        places = lax.broadcasted_iota(jnp.float32, (*grid, quarter), axis)
        centres = (places + 0.5) / side * 2 - 1
        angles.append(2 * math.pi * centres / waves)
    turned = lax.reshape(lax.concatenate(angles, 2), (grid[0] * grid[1], 2 * quarter))
    still = jnp.zeros((num_prefix, 2 * quarter), jnp.float32)
    return lax.concatenate([still, turned], 0)


def attend(
    query: Float[Array, "B N D"],
    key: Float[Array, "B M D"],
    value: Float[Array, "B M D"],
    cosines: Float[Array, "B N half_head"] | None = None,
    sines: Float[Array, "B N half_head"] | None = None,
    *,
    num_heads: int,
) -> Float[Array, "B N D"]:
    """Let every token look at all tokens of its image, queries and keys turned by the rotary embedding if there is one.

    Args:
        query: The heads beside each other.
        key: Likewise.
        value: Likewise.
        cosines: Of the angle of each pair (i, i + half) of a head's channels.
        sines: Of the same angles.
        num_heads: How many heads D holds.
    """
    width = query.shape[2] // num_heads
    query, key, value = (lax.reshape(values, (*values.shape[:2], num_heads, width)) for values in (query, key, value))
    if cosines is not None and sines is not None:
        query, key = (_rotated(values, cosines, sines) for values in (query, key))
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(width)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores, axis=-1), value)
    return lax.reshape(mixed, (*mixed.shape[:2], num_heads * width))


def _rotated(
    heads: Float[Array, "B N heads d"], cosines: Float[Array, "B N half_head"], sines: Float[Array, "B N half_head"]
) -> Float[Array, "B N heads d"]:
    cosines, sines = (values[:, :, None, :] for values in (cosines, sines))
    first, second = jnp.split(heads, 2, axis=-1)
    return jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
