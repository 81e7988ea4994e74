"""Attention between the few tokens of a prompt and the many positions of an image, head by head.

N prompts, T tokens each, H heads of width d (H * d = I), C channels, L positions. Modules of transformers are taken as
they are; it does not say their types.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

# exp(-80) is 2e-35: it adds nothing to a sum of which one term is 1, and is not a denormal number.
_LEAST = -80.0


def split_heads(attention: Any, projected: Float[Tensor, "*N T I"]) -> Float[Tensor, "*N H T d"]:
    """Split the last axis by heads."""
    return torch.unflatten(projected, -1, (attention.num_attention_heads, -1)).transpose(-3, -2)


def split_weight_heads(attention: Any, weight: Float[Tensor, "I C"]) -> Float[Tensor, "H d C"]:
    """Split the first axis of a projection by heads."""
    return torch.unflatten(weight, 0, (attention.num_attention_heads, -1))


def heads_channel_first(attention: Any, projected: Float[Tensor, "L I"]) -> Float[Tensor, "H d L"]:
    """Split the last axis by heads, and put the positions last."""
    return split_heads(attention, projected).mT.contiguous()


def self_attend(
    attention: Any, asking: Float[Tensor, "N T C"], values: Float[Tensor, "N T C"]
) -> Float[Tensor, "N T C"]:
    """Let tokens attend to each other."""
    return cast(Tensor, attention(asking[None], asking[None], values[None])[0][0])


def batched_head_matmul(tokens: Float[Tensor, "N H T d"], image: Float[Tensor, "H d L"]) -> Float[Tensor, "N H T L"]:
    """Multiply each prompt's tokens with the same image, head by head, all prompts in one product.

    Returns:
        A view of memory in which the heads come first.
    """
    by_heads = tokens.transpose(0, 1)
    return torch.unflatten(torch.bmm(by_heads.flatten(1, 2), image), 1, by_heads.shape[1:3]).transpose(0, 1)


def stable_exp(scores: Tensor, dim: int, *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take what softmax divides by its sum; in place, unless told where.

    What is too small to count is kept from numbers so small that processors compute with them at a tenth of the speed;
    a GPU does not mind.

    Returns:
        The exponentials of what scores are less than their highest, and the highest.
    """
    highest = scores.amax(dim=dim, keepdim=True)
    less = torch.sub(scores, highest, out=scores if out is None else out)
    return (less if less.is_cuda else less.clamp_(min=_LEAST)).exp_(), highest


def softmax_into(weights: Float[Tensor, "N H T l"], scores: Float[Tensor, "N H T l"]) -> None:
    """Write the softmax of scores over a prompt's tokens into memory that is there already."""
    if scores.is_cuda:
        # Two kernels instead of six, of which each goes through all of it.
        weights.copy_(scores.softmax(dim=2))
    else:
        stable_exp(scores, dim=2, out=weights)
        weights.div_(weights.sum(dim=2, keepdim=True))


class PartialAttention(NamedTuple):
    """What attention finds in some of the positions.

    Attributes:
        highest: Score.
        total: Of the weights, which are 1 at the highest score.
        sums: Of what is attended to, by weight.
    """

    highest: Float[Tensor, "N H T 1"]
    total: Float[Tensor, "N H T 1"]
    sums: tuple[Float[Tensor, "N H T _"], ...]


def combine_partial_attention(parts: Sequence[PartialAttention]) -> list[Float[Tensor, "N H T _"]]:
    """Bring together what attention finds in all positions, as means by weight."""
    if len(parts) == 1:
        return [own / parts[0].total for own in parts[0].sums]
    highest = torch.stack([part.highest for part in parts])
    shares = (highest - highest.amax(dim=0)).exp_()
    total = (shares * torch.stack([part.total for part in parts])).sum(dim=0)
    return [
        (shares * torch.stack(sums)).sum(dim=0) / total for sums in zip(*(part.sums for part in parts), strict=True)
    ]
