"""A prompt's image in the decoder, kept as `shared_image.py` says: tokens attend to it, and it attends to tokens.

N prompts, T tokens each, R rows, H heads of width d (H * d = I), C channels, L positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.decoder.attention import Attention, join_heads, split_heads
from no_time_to_train.jax_models.sam2.decoder.shared_image import ImageToToken, Maps, TokenToImage


class PromptedImage(NamedTuple):
    """The images of N prompts after a layer.

    Attributes:
        values: What each layer's tokens gave, of which its rows are made; the last channel is 1.
        scale: Of the shared part.
        coefficients: Of the rows, in the order of layers, then heads, then tokens.
    """

    values: tuple[Float[Array, "N H T d1"], ...]
    scale: Float[Array, "N L"]
    coefficients: Float[Array, "N R L"]


def attend_to_image(
    attention: Attention, step: TokenToImage, asking: Float[Array, "N T C"], images: PromptedImage | None
) -> Float[Array, "N T C"]:
    """Let tokens attend to what each prompt has made of the image.

    Args:
        attention: The attention.
        step: What prompts share of it.
        asking: The tokens, with those that were given, for the queries.
        images: The prompts' images; before the first layer None, for the image that they share.
    """
    heads = attention.num_heads
    query = split_heads(layers.map_linear(attention.q_proj, asking) * attention.width**-0.5, heads)
    if images is None:
        weights = jax.nn.softmax(layers.matmul(query, step.keys), axis=-1)
        found = layers.matmul(weights, step.values)
    else:
        row_keys = split_heads(project_values(images.values, step.row_keys), heads)
        weights = jax.nn.softmax(_scores(query, row_keys, step.keys, step.positions, images), axis=-1)
        mixed = layers.matmul(_flat(weights), lax.transpose(images.coefficients, (0, 2, 1)))
        row_values = split_heads(project_values(images.values, step.row_values), heads)
        found = layers.matmul(weights * images.scale[:, None, None, :], step.values)
        found = found + layers.matmul(_by_heads(mixed, heads), row_values)
    return layers.map_linear(attention.o_proj, join_heads(found) + step.bias[None, None])


def attend_to_tokens(
    attention: Attention,
    step: ImageToToken,
    asking: Float[Array, "N T C"],
    tokens: Float[Array, "N T C"],
    images: PromptedImage | None,
) -> PromptedImage:
    """Let each prompt's image attend to its tokens, add what it finds, and normalise.

    Args:
        attention: The attention.
        step: What prompts share of it, and of the norm.
        asking: The tokens, with those that were given, for the keys.
        tokens: The tokens, for the values.
        images: The prompts' images until now; None before the first layer.
    """
    heads = attention.num_heads
    key = split_heads(layers.map_linear(attention.k_proj, asking), heads)
    given = split_heads(layers.map_linear(attention.v_proj, tokens), heads)
    given = lax.concatenate([given, jnp.ones_like(lax.slice_in_dim(given, 0, 1, axis=3))], 3)
    values = (given,) if images is None else (*images.values, given)
    if images is None:
        scores = layers.matmul(key, step.queries)
    else:
        row_queries = split_heads(project_values(images.values, step.row_queries), heads)
        scores = _scores(key, row_queries, step.queries, step.positions, images)
    # Softmax over the tokens, whose axis is not the last.
    raised = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
    weights = _flat(raised / jnp.sum(raised, axis=2, keepdims=True))
    coefficients = weights if images is None else lax.concatenate([images.coefficients, weights], 1)
    variance = _variance(step, None if images is None else images.scale, coefficients, values)
    # Rounding may leave less than nothing.
    scale = lax.rsqrt(jax.nn.relu(variance) + step.eps)
    return PromptedImage(
        values=values,
        scale=scale if images is None else scale * images.scale,
        coefficients=coefficients * scale[:, None, :],
    )


def project_values(values: tuple[Float[Array, "N H T d1"], ...], maps: Maps) -> Float[Array, "N R _J"]:
    """Map each layer's values, and put the results in the order of the coefficients."""
    return lax.concatenate([_flat(layers.matmul(own, one)) for own, one in zip(values, maps, strict=True)], 1)


def _scores(
    tokens: Float[Array, "N H T d"],
    rows: Float[Array, "N H R d"],
    shared: Float[Array, "1 H d L"],
    positions: Float[Array, "1 H d L"] | None,
    images: PromptedImage,
) -> Float[Array, "N H T L"]:
    """Multiply tokens with what an attention projects of each prompt's image."""
    assert positions is not None
    products = layers.matmul(tokens, lax.transpose(rows, (0, 1, 3, 2)))
    by_rows = _by_heads(layers.matmul(_flat(products), images.coefficients), tokens.shape[1])
    by_shared = layers.matmul(tokens, shared) * images.scale[:, None, None, :]
    return by_shared + layers.matmul(tokens, positions) + by_rows


def _variance(
    step: ImageToToken,
    scale: Float[Array, "N L"] | None,
    coefficients: Float[Array, "N R L"],
    values: tuple[Float[Array, "N H T d1"], ...],
) -> Float[Array, "N L"]:
    """Return the mean square over channels of scale * shared + coefficients' rows, all of which have no mean."""
    rows = project_values(values, step.rows)
    squares = layers.matmul(rows / rows.shape[2], lax.transpose(rows, (0, 2, 1)))
    by_rows = layers.matmul(squares, coefficients)
    crossed = project_values(values, step.crossings)
    if scale is None:
        return step.square + jnp.sum((by_rows + crossed) * coefficients, axis=1)
    total = jnp.sum((by_rows + crossed * scale[:, None, :]) * coefficients, axis=1)
    return step.square * scale * scale + total


def _flat(heads: Float[Array, "N H T _J"]) -> Float[Array, "N HT _J"]:
    count, number, tokens, width = heads.shape
    return layers.reshaped(heads, (count, number * tokens, width))


def _by_heads(rows: Float[Array, "N HT _J"], num_heads: int) -> Float[Array, "N H T _J"]:
    count, number, width = rows.shape
    return layers.reshaped(rows, (count, num_heads, number // num_heads, width), like=None)
