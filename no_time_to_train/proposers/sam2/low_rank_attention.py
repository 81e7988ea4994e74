"""An image's features as prompts change them, kept as what all prompts share and a few rows of each prompt's own.

In every layer of SAM2's decoder the image attends to the T tokens of a prompt, through H heads: to each position a
mixture of H * T rows is added, and the sum is normalised. So the features after any number of layers are

    x = scale * shared + coefficients' rows + constant,

with `shared` the same to all prompts, `scale` and `coefficients` by position, and `rows` few. They are never written
out: what attention and upscaling want of them is a product, which goes through each part by itself, and the norm's
variance is a quadratic form. Of a product of C channels there is left one of H * T coefficients, or of one head's
channels. Nor are the rows: what is wanted of them is a map of the values that they are made of (`image_state.py`).

N prompts, T tokens each, R rows, H heads of width d (H * d = I), C channels. Of the positions a tile of l is computed
with at a time: several prompts' products with a tile stay in the cache.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.proposers.sam2.attention_ops import (
    PartialAttention,
    batched_head_matmul,
    combine_partial_attention,
    softmax_into,
    split_heads,
    stable_exp,
)
from no_time_to_train.proposers.sam2.image_state import (
    ImageToToken,
    ImageToTokenTile,
    PromptState,
    PromptTile,
    TokenToImage,
    TokenToImageTile,
    project_values,
)

# Memory for the coefficients, tile by tile.
Workspace = Sequence[Float[Tensor, "N R l"]]


def attend_to_image(
    step: TokenToImage, asking: Float[Tensor, "N T C"], images: PromptState | None
) -> Float[Tensor, "N T C"]:
    """Let tokens attend to what each prompt has made of the image.

    Args:
        step: The attention, and what prompts share of it.
        asking: The tokens, with those that were given, for the queries.
        images: The prompts' images; before the first layer None, for the image that they share.
    """
    attention = step.attention
    queries = split_heads(attention, attention.q_proj(asking) * attention.scaling)
    if images is None:
        (found,) = combine_partial_attention([_attend_to_shared(queries, tile) for tile in step.tiles])
    else:
        products = _products(attention, queries, project_values(images.values, step.row_keys))
        tiles = zip(step.tiles, images.tiles, strict=True)
        found, mixed = combine_partial_attention(
            [_attend_to_prompted(queries, products, shared, own) for shared, own in tiles]
        )
        found = found + mixed @ split_heads(attention, project_values(images.values, step.row_values))
    return cast(Tensor, attention.o_proj(found.transpose(1, 2).flatten(2) + step.bias))


def attend_to_tokens(
    step: ImageToToken,
    asking: Float[Tensor, "N T C"],
    tokens: Float[Tensor, "N T C"],
    images: PromptState | None,
    workspace: Workspace,
) -> PromptState:
    """Let each prompt's image attend to its tokens, add what it finds, and normalise.

    Args:
        step: The attention and the norm, and what prompts share of them.
        asking: The tokens, with those that were given, for the keys.
        tokens: The tokens, for the values.
        images: The prompts' images until now; None before the first layer.
        workspace: Where the coefficients are to be, those until now included.
    """
    attention = step.attention
    keys = split_heads(attention, attention.k_proj(asking))
    values = F.pad(split_heads(attention, attention.v_proj(tokens)), (0, 1), value=1.0)
    every, products = (*(() if images is None else images.values), values), None
    if images is not None:
        products = _products(attention, keys, project_values(images.values, step.row_queries))
    rows = project_values(every, step.rows)
    squares = _squares(rows / rows.shape[2] ** 0.5, values.shape[1] * values.shape[2])
    tiles = []
    for index, (shared, place) in enumerate(zip(step.tiles, workspace, strict=True)):
        own = None if images is None else images.tiles[index]
        coefficients = place[: len(keys), : rows.shape[1]]
        weights = torch.unflatten(coefficients[:, -keys.shape[1] * keys.shape[2] :], 1, keys.shape[1:3])
        if own is None:
            scores = batched_head_matmul(keys, shared.queries)
        else:
            scores = _scores(keys, products, shared.queries, shared.positions, own)
        softmax_into(weights, scores)
        scale = _variance(shared, own, coefficients, squares, every).add_(step.norm.eps).rsqrt_()
        coefficients.mul_(scale[:, None])
        tiles.append(PromptTile(scale if own is None else scale * own.scale, coefficients))
    return PromptState(every, tuple(tiles))


def _products(
    attention: Any, tokens: Float[Tensor, "N H T d"], rows: Float[Tensor, "N R I"]
) -> Float[Tensor, "N HT R"]:
    """Multiply tokens with the projected rows, head by head."""
    return (tokens @ split_heads(attention, rows).mT).flatten(1, 2)


def _scores(
    tokens: Float[Tensor, "N H T d"],
    products: Float[Tensor, "N HT R"] | None,
    shared: Float[Tensor, "H d l"],
    positions: Float[Tensor, "H d l"] | None,
    own: PromptTile,
) -> Float[Tensor, "N H T l"]:
    """Multiply tokens with what an attention projects of each prompt's image."""
    assert products is not None
    assert positions is not None
    scores = own.scale.new_empty((*tokens.shape[:3], shared.shape[2]))
    scale = own.scale[:, None, None]
    torch.addcmul(batched_head_matmul(tokens, positions), batched_head_matmul(tokens, shared), scale, out=scores)
    scores.flatten(1, 2).baddbmm_(products, own.coefficients)
    return scores


def _attend_to_shared(queries: Float[Tensor, "N H T d"], tile: TokenToImageTile) -> PartialAttention:
    weights, highest = stable_exp(batched_head_matmul(queries, tile.keys), dim=-1)
    return PartialAttention(highest, weights.sum(dim=-1, keepdim=True), (_weighted(weights, tile.values),))


def _attend_to_prompted(
    queries: Float[Tensor, "N H T d"], products: Float[Tensor, "N HT R"], shared: TokenToImageTile, own: PromptTile
) -> PartialAttention:
    weights, highest = stable_exp(_scores(queries, products, shared.keys, shared.positions, own), dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    mixed = torch.unflatten(torch.bmm(weights.flatten(1, 2), own.coefficients.mT), 1, weights.shape[1:3])
    count, number, length, positions = weights.shape
    scaled = weights.new_empty((number, count, length, positions)).transpose(0, 1)
    torch.mul(weights, own.scale[:, None, None], out=scaled)
    return PartialAttention(highest, total, (_weighted(scaled, shared.values), mixed))


def _weighted(weights: Float[Tensor, "N H T l"], values: Float[Tensor, "H l d"]) -> Float[Tensor, "N H T d"]:
    """Sum values that all prompts share; of the weights the heads come first in memory."""
    by_heads = weights.transpose(0, 1)
    return torch.unflatten(torch.bmm(by_heads.flatten(1, 2), values), 1, by_heads.shape[1:3]).transpose(0, 1)


def _squares(rows: Float[Tensor, "N R C"], layer: int) -> list[Float[Tensor, "N HT _"]]:
    """Multiply each layer's rows with those of the layers until then, of which the other layers' count twice."""
    found = []
    for stop in range(layer, rows.shape[1] + 1, layer):
        products = rows[:, stop - layer : stop] @ rows[:, :stop].mT
        products[:, :, : stop - layer] *= 2
        found.append(products)
    return found


def _variance(
    shared: ImageToTokenTile,
    own: PromptTile | None,
    coefficients: Float[Tensor, "N R l"],
    squares: Sequence[Float[Tensor, "N HT _"]],
    values: Sequence[Float[Tensor, "N H T d1"]],
) -> Float[Tensor, "N l"]:
    """Return the mean square over channels of scale * shared + coefficients' rows, all of which have no mean."""
    variance = shared.square if own is None else shared.square * own.scale.square()
    for products, given, crossing in zip(squares, values, shared.crossings, strict=True):
        stop = products.shape[2]
        part = torch.bmm(products, coefficients[:, :stop])
        crossed, product = torch.unflatten(part, 1, given.shape[1:3]), batched_head_matmul(given, crossing)
        if own is None:
            crossed.add_(product)
        else:
            crossed.addcmul_(product, own.scale[:, None, None])
        variance = variance + part.mul_(coefficients[:, stop - products.shape[1] : stop]).sum(dim=1)
    # Rounding may leave less than nothing.
    return variance.clamp(min=0)
