"""What all prompts on an image share in SAM2's mask decoder, layer by layer; computed once per image.

The features of a prompt's image are `scale * shared + coefficients' rows + constant` (see `low_rank_attention.py`). The
shared part and the constant go through the layers here, and leave behind what each attention and each norm wants of
them. A layer's rows are made of its tokens' values: head by head through the output projection, plus the head's share
of what is constant. What is wanted of rows, whatever it is, is a map of those values, and such maps are made here too.

H heads of width d (H * d = I), C channels, L positions in tiles of l. Modules of transformers are taken as they are; it
does not say their types.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.proposers.sam2.attention_ops import (
    batched_head_matmul,
    heads_channel_first,
    split_heads,
    split_weight_heads,
)

# For each layer so far, maps of its heads' values, to which 1 is added as a last channel, for what is constant.
Maps = tuple[Float[Tensor, "H d1 _"], ...]


class PromptTile(NamedTuple):
    """Some positions of N prompts' images after a layer.

    Attributes:
        scale: Of the shared part.
        coefficients: Of the rows.
    """

    scale: Float[Tensor, "N l"]
    coefficients: Float[Tensor, "N R l"]


class PromptState(NamedTuple):
    """The images of N prompts after a layer.

    Attributes:
        values: What each layer's tokens gave, of which its rows are made; the last channel is 1.
        tiles: The positions. Coefficients are in the order of layers, then heads, then tokens.
    """

    values: tuple[Float[Tensor, "N H T d1"], ...]
    tiles: tuple[PromptTile, ...]


class TokenToImageTile(NamedTuple):
    """Some positions of the image, as tokens attend to them.

    Attributes:
        keys: Of the shared part; before the first layer, of the positions too.
        positions: The positions' keys; None before the first layer.
        values: Of the shared part, without a bias.
    """

    keys: Float[Tensor, "H d l"]
    positions: Float[Tensor, "H d l"] | None
    values: Float[Tensor, "H l d"]


class TokenToImage(NamedTuple):
    """An attention of tokens to the image.

    Attributes:
        attention: The module.
        bias: The values' bias, and the constant's values.
        row_keys: From values to the keys of their rows.
        row_values: From values to the values of their rows.
        tiles: The positions.
    """

    attention: Any
    bias: Float[Tensor, " I"]
    row_keys: Maps
    row_values: Maps
    tiles: tuple[TokenToImageTile, ...]


class ImageToTokenTile(NamedTuple):
    """Some positions of the image, as they attend to tokens and are normalised.

    Attributes:
        queries: Of the shared part, scaled; before the first layer, of positions and biases too.
        positions: Queries of the positions, the constant and the bias, scaled; None before the first layer.
        crossings: From values to twice the mean over channels of their rows' product with the shared part.
        square: Mean square of the shared part over channels.
    """

    queries: Float[Tensor, "H d l"]
    positions: Float[Tensor, "H d l"] | None
    crossings: Maps
    square: Float[Tensor, " l"]


class ImageToToken(NamedTuple):
    """An attention of the image to tokens, and the norm that follows it.

    Attributes:
        attention: The module.
        norm: The layer norm.
        row_queries: From earlier layers' values to the queries of their rows, scaled.
        rows: From values, this layer's included, to their rows, less the rows' means.
        tiles: The positions.
    """

    attention: Any
    norm: Any
    row_queries: Maps
    rows: Maps
    tiles: tuple[ImageToTokenTile, ...]


class SharedImageState:
    """The shared part and the constant on their way through the layers.

    Args:
        features: The image's, (L, C).
        positions: Their embedding, which every attention adds, (L, C).
        tile: Positions in a tile.

    Attributes:
        features: The shared part after the layers so far.
        constant: Likewise, (C,).
    """

    def __init__(self, features: Float[Tensor, "L C"], positions: Float[Tensor, "L C"], tile: int) -> None:
        self.features, self._positions, self._tile = features, positions, tile
        self.constant = torch.zeros_like(features[0])
        self._rows: Maps = ()

    def token_to_image(self, attention: Any) -> TokenToImage:
        """Prepare an attention of tokens to the image as it is now."""
        # A bias of keys, and what is constant of them, is the same for all positions, which softmax does not see.
        keys, positions = self._projected(attention, attention.k_proj.weight, self._positions)
        values = split_heads(attention, F.linear(self.features, attention.v_proj.weight))
        tiles = zip(self._tiles(keys), self._tiles(positions), self._tiles(values, 1), strict=True)
        return TokenToImage(
            attention,
            attention.v_proj(self.constant),
            self.row_maps(attention.k_proj.weight),
            self.row_maps(attention.v_proj.weight),
            tuple(TokenToImageTile(*tile) for tile in tiles),
        )

    def image_to_token(self, attention: Any, norm: Any) -> ImageToToken:
        """Prepare an attention of the image to tokens, and go through the norm that follows it."""
        weight, bias = attention.q_proj.weight * attention.scaling, attention.q_proj.bias * attention.scaling
        queries, positions = self._projected(attention, weight, self._positions + self.constant, bias)
        row_queries = self.row_maps(weight)
        # A head's weights sum to 1, so that the shares of what is constant come together.
        constant = (self.constant + attention.o_proj.bias) / attention.num_attention_heads
        projection = split_weight_heads(attention, attention.o_proj.weight.T)
        rows = torch.cat([projection, constant.expand(len(projection), 1, -1)], dim=1)
        self._rows = tuple(centred(one) for one in (*self._rows, rows))
        shared = centred(self.features)
        crossings = [self._tiles(one) for one in self.row_maps(shared * (2 / shared.shape[1]))]
        tiles = zip(
            self._tiles(queries),
            self._tiles(positions),
            zip(*crossings, strict=True),
            self._tiles(shared.square().mean(dim=1)),
            strict=True,
        )
        step = ImageToToken(attention, norm, row_queries, self._rows, tuple(ImageToTokenTile(*tile) for tile in tiles))
        self.features, self.constant = shared * norm.weight, norm.bias
        self._rows = tuple(one * norm.weight for one in self._rows)
        return step

    def row_maps(self, weight: Float[Tensor, "J C"]) -> Maps:
        """Return maps from values to what a product with a matrix makes of their rows."""
        return tuple(one @ weight.T for one in self._rows)

    def _projected(
        self, attention: Any, weight: Float[Tensor, "I C"], positions: Float[Tensor, "L C"], bias: Tensor | None = None
    ) -> tuple[Float[Tensor, "H d L"], Float[Tensor, "H d L"] | None]:
        """Project the shared part and the positions; before the first layer, when nothing scales it, their sum."""
        if not self._rows:
            return heads_channel_first(attention, F.linear(self.features + positions, weight, bias)), None
        return (
            heads_channel_first(attention, F.linear(self.features, weight)),
            heads_channel_first(attention, F.linear(positions, weight, bias)),
        )

    def _tiles(self, values: Tensor | None, dim: int = -1) -> Sequence[Any]:
        """Split an axis of positions into tiles, each in memory of its own."""
        if values is None:
            return [None] * len(torch.split(self.features, self._tile))
        return [part.contiguous() for part in torch.split(values, self._tile, dim)]


def centred(values: Tensor) -> Tensor:
    """Take the mean over the last axis away."""
    return values - values.mean(dim=-1, keepdim=True)


def project_values(values: Sequence[Float[Tensor, "N H T d1"]], maps: Maps) -> Float[Tensor, "N R J"]:
    """Map each layer's values, and put the results in the order of the coefficients."""
    return torch.cat(
        [batched_head_matmul(own, one).flatten(1, 2) for own, one in zip(values, maps, strict=True)], dim=1
    )
