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
        coefficients: Of each layer's rows, in the order of heads, then tokens.
    """

    values: tuple[Float[Array, "N H T d1"], ...]
    scale: Float[Array, "N L"]
    coefficients: tuple[Float[Array, "N HT L"], ...]


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
        scores = _scores(query, project_values(images.values, step.row_keys), step.keys, step.positions, images)
        weights = jax.nn.softmax(scores, axis=-1)
        found = layers.matmul(weights * images.scale[:, None, None, :], step.values)
        for coefficients, rows in zip(images.coefficients, project_values(images.values, step.row_values), strict=True):
            mixed = layers.matmul(_flat(weights), lax.transpose(coefficients, (0, 2, 1)))
            found = found + layers.matmul(_by_heads(mixed, heads), split_heads(rows, heads))
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
        row_queries = project_values(images.values, step.row_queries)
        scores = _scores(key, row_queries, step.queries, step.positions, images)
    # Softmax over the tokens, whose axis is not the last.
    raised = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
    weights = _flat(raised / jnp.sum(raised, axis=2, keepdims=True))
    coefficients = (weights,) if images is None else (*images.coefficients, weights)
    variance = _variance(step, None if images is None else images.scale, coefficients, values)
    # Rounding may leave less than nothing.
    scale = lax.rsqrt(jax.nn.relu(variance) + step.eps)
    return PromptedImage(
        values=values,
        scale=scale if images is None else scale * images.scale,
        coefficients=tuple(one * scale[:, None, :] for one in coefficients),
    )


def project_values(values: tuple[Float[Array, "N H T d1"], ...], maps: Maps) -> tuple[Float[Array, "N HT _J"], ...]:
    """Map each layer's values, in the order of its coefficients."""
    return tuple(_flat(layers.matmul(own, one)) for own, one in zip(values, maps, strict=True))


def _scores(
    tokens: Float[Array, "N H T d"],
    rows: tuple[Float[Array, "N HT I"], ...],
    shared: Float[Array, "1 H d L"],
    positions: Float[Array, "1 H d L"] | None,
    images: PromptedImage,
) -> Float[Array, "N H T L"]:
    """Multiply tokens with what an attention projects of each prompt's image."""
    assert positions is not None
    heads = tokens.shape[1]
    scores = layers.matmul(tokens, shared) * images.scale[:, None, None, :] + layers.matmul(tokens, positions)
    for own, coefficients in zip(rows, images.coefficients, strict=True):
        products = layers.matmul(tokens, lax.transpose(split_heads(own, heads), (0, 1, 3, 2)))
        scores = scores + _by_heads(layers.matmul(_flat(products), coefficients), heads)
    return scores


def _variance(
    step: ImageToToken,
    scale: Float[Array, "N L"] | None,
    coefficients: tuple[Float[Array, "N HT L"], ...],
    values: tuple[Float[Array, "N H T d1"], ...],
) -> Float[Array, "N L"]:
    """Return the mean square over channels of scale * shared + coefficients' rows, all of which have no mean."""
    rows = project_values(values, step.rows)
    total = step.square if scale is None else step.square * scale * scale
    for index, (own, crossed) in enumerate(zip(rows, project_values(values, step.crossings), strict=True)):
        product = crossed if scale is None else crossed * scale[:, None, :]
        # The form is symmetric: of two layers' products, one is taken twice.
        for other, theirs in zip(rows[index:], coefficients[index:], strict=True):
            factor = (1 if other is own else 2) / own.shape[2]
            product = product + layers.matmul(layers.matmul(own * factor, lax.transpose(other, (0, 2, 1))), theirs)
        total = total + _column_sums(product * coefficients[index])
    return total


def _column_sums(values: Float[Array, "N R L"]) -> Float[Array, "N L"]:
    """Add rows up; as a product, since ONNX Runtime is slow at sums over an axis that is not the last."""
    ones = jnp.ones_like(lax.slice_in_dim(values, 0, 1, axis=2))
    return layers.reshaped(layers.matmul(lax.transpose(ones, (0, 2, 1)), values), values.shape[::2], like=values)


def _flat(heads: Float[Array, "N H T _J"]) -> Float[Array, "N HT _J"]:
    count, number, tokens, width = heads.shape
    return layers.reshaped(heads, (count, number * tokens, width))


def _by_heads(rows: Float[Array, "N HT _J"], num_heads: int) -> Float[Array, "N H T _J"]:
    count, number, width = rows.shape
    return layers.reshaped(rows, (count, num_heads, number // num_heads, width), like=None)
