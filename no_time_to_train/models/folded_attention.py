"""Attention between the few tokens of a prompt and the many positions of an image, projections folded onto the tokens.

N prompts, T tokens each, H heads of width d (H * d = I), C channels, L positions. Modules of transformers are taken as
they are; it does not say their types.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

# exp(-80) is 2e-35: it adds nothing to a sum of which one term is 1, and is no denormal number.
_LEAST = -80.0


def heads(attention: Any, projected: Float[Tensor, "*N T I"]) -> Float[Tensor, "*N H T d"]:
    """Split the last axis by heads."""
    return torch.unflatten(projected, -1, (attention.num_attention_heads, -1)).transpose(-3, -2)


def by_channel(attention: Any, projected: Float[Tensor, "L I"]) -> Float[Tensor, "H d L"]:
    """Split the last axis by heads, and put the positions last."""
    return heads(attention, projected).mT.contiguous()


def among(attention: Any, asking: Float[Tensor, "N T C"], values: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
    """Let tokens look at each other."""
    return cast(Tensor, attention(asking[None], asking[None], values[None])[0][0])


def shared_product(tokens: Float[Tensor, "N H T d"], image: Float[Tensor, "H d L"]) -> Float[Tensor, "N HT L"]:
    """Multiply each prompt's tokens with the same image, head by head, without repeating the image."""
    count, heads, length, _ = tokens.shape
    product = tokens.new_empty((count, heads, length, image.shape[2]))
    for own, result in zip(tokens, product, strict=True):
        torch.bmm(own, image, out=result)
    return product.flatten(1, 2)


def exponentials(scores: Tensor, dim: int) -> Tensor:
    """Take, in place, what softmax divides by its sum.

    What is too small to count is kept from numbers so small that processors compute with them at a tenth of the speed.
    """
    return scores.sub_(scores.amax(dim=dim, keepdim=True)).clamp_(min=_LEAST).exp_()


def over_tokens(scores: Float[Tensor, "N HT L"], length: int) -> Float[Tensor, "N HT L"]:
    """Take, in place, the softmax of each head's scores over the tokens."""
    weights = exponentials(torch.unflatten(scores, 1, (-1, length)), dim=2)
    return weights.div_(weights.sum(dim=2, keepdim=True)).flatten(1, 2)


def fold(tokens: Float[Tensor, "N H T d"], weight: Float[Tensor, "I C"]) -> Float[Tensor, "N HT C"]:
    """Take each head's tokens back through a projection of the image, instead of the image through it."""
    by_head = torch.unflatten(weight, 0, (tokens.shape[1], -1))
    return torch.einsum("nhtd,hdc->nhtc", tokens, by_head).flatten(1, 2)


def values(attention: Any, tokens: Float[Tensor, "N T C"]) -> Float[Tensor, "N HT C"]:
    """Return the tokens' values, each head's already through the output projection, with its share of the bias."""
    projected = heads(attention, attention.v_proj(tokens))
    # A head's weights sum to 1, so that the shares of the bias come together.
    shares: Tensor = attention.o_proj.bias / attention.num_attention_heads
    return fold(projected, attention.o_proj.weight.T) + shares


def look(
    attention: Any,
    asking: Float[Tensor, "N T C"],
    features: Float[Tensor, "N L C"],
    position_keys: Float[Tensor, "H d L"],
) -> Float[Tensor, "N T C"]:
    """Let tokens look at image features of their own, which are not projected."""
    queries = heads(attention, attention.q_proj(asking) * attention.scaling)
    scores = shared_product(queries, position_keys)
    scores.baddbmm_(fold(queries, attention.k_proj.weight), features.mT)
    weights = exponentials(scores, dim=-1)
    seen = torch.bmm(weights, features) / weights.sum(dim=-1, keepdim=True)
    seen = torch.unflatten(seen, 1, queries.shape[1:3])
    by_head = torch.unflatten(attention.v_proj.weight, 0, (attention.num_attention_heads, -1))
    mixed = torch.einsum("nhtc,hdc->nthd", seen, by_head).flatten(2) + attention.v_proj.bias
    return cast(Tensor, attention.o_proj(mixed))
