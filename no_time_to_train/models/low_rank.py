"""An image's features as prompts change them, kept as what all prompts share and a few rows of each prompt's own.

In every layer of SAM2's decoder the image looks at the T tokens of a prompt, through H heads: to each position a
mixture of H * T rows is added, and the sum is normalised. So the features after any number of layers are

    x = scale * shared + coefficients' rows + constant,

with `shared` the same to all prompts, `scale` and `coefficients` by position, and `rows` few. They are never written
out: what attention and upscaling want of them is a product, which goes through each part by itself, and the norm's
variance is a quadratic form. Of a product of C channels there is left one of H * T coefficients, or of one head's
channels.

The rows are never written out either. A layer's rows are its tokens' values, head by head, through the output
projection; a map from values to what is wanted of the rows is computed once per image.

N prompts, T tokens each, R rows, H heads of width d (H * d = I), C channels, L positions, of which a tile of l is
computed with at a time: several prompts' products with a tile stay in the cache. Modules of transformers are taken as
they are; it does not say their types.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.models.folded_attention import (
    Looked,
    by_channel,
    by_head,
    exponentials,
    heads,
    merge,
    shared_product,
)

# For each layer, maps of its heads' values: each head's part of the output projection, its share of what is constant,
# and what comes after. Values have 1 in an added channel, for what is constant.
Maps = tuple[Float[Tensor, "H d1 _"], ...]

# Memory for the coefficients, tile by tile.
Room = Sequence[Float[Tensor, "N R l"]]


class LookingTile(NamedTuple):
    """Some positions, as tokens look at them.

    Attributes:
        keys: Of the shared part; before the first layer, of the positions too.
        positions: The positions' keys; None before the first layer.
        values: Of the shared part, without a bias.
    """

    keys: Float[Tensor, "H d l"]
    positions: Float[Tensor, "H d l"] | None
    values: Float[Tensor, "H l d"]


class Looking(NamedTuple):
    """What prompts share in an attention of tokens to the image.

    Attributes:
        attention: The module.
        bias: The values' bias, and the constant's values.
        row_keys: For the rows of each layer so far, maps of the values that they are made of to keys.
        row_values: Likewise, to values.
        tiles: The positions.
    """

    attention: Any
    bias: Float[Tensor, " I"]
    row_keys: Maps
    row_values: Maps
    tiles: tuple[LookingTile, ...]


class AbsorbingTile(NamedTuple):
    """Some positions, as they look at tokens and are normalised.

    Attributes:
        queries: Of the shared part, scaled; before the first layer, of positions and biases too.
        positions: Queries of the positions, the constant and the bias, scaled; None before the first layer.
        crossings: For the rows of each layer so far, twice the mean over channels of their product with the shared
            part, as a map of the values that they are made of.
        square: Mean square of the shared part.
    """

    queries: Float[Tensor, "H d l"]
    positions: Float[Tensor, "H d l"] | None
    crossings: tuple[Float[Tensor, "H d1 l"], ...]
    square: Float[Tensor, " l"]


class Absorbing(NamedTuple):
    """What prompts share where the image looks at tokens, adds what it sees, and is normalised.

    Attributes:
        attention: The module.
        norm: The layer norm.
        row_queries: For the rows of each earlier layer, maps of the values that they are made of to queries, scaled.
        rows: For the rows of each layer so far, this one's included, maps of the values to them; centred.
        tiles: The positions.
    """

    attention: Any
    norm: Any
    row_queries: Maps
    rows: Maps
    tiles: tuple[AbsorbingTile, ...]


class SeenTile(NamedTuple):
    """Some positions of N prompts' images after a layer.

    Attributes:
        scale: Of the shared part.
        coefficients: Of the rows.
    """

    scale: Float[Tensor, "N l"]
    coefficients: Float[Tensor, "N R l"]


class Seen(NamedTuple):
    """The features of N prompts after a layer, less what is constant.

    Attributes:
        values: What each layer's tokens gave, from which its rows come: a head's values, and 1 in the last channel.
        tiles: The positions.
    """

    values: tuple[Float[Tensor, "N H T d1"], ...]
    tiles: tuple[SeenTile, ...]


class SharedPart:
    """Goes through the layers with what does not depend on the prompt, and keeps what each step needs of it.

    Args:
        features: The image's, (L, C).
        positions: Their embedding, which every attention adds, (L, C).
        tile: Positions at a time.
    """

    def __init__(self, features: Float[Tensor, "L C"], positions: Float[Tensor, "L C"], tile: int) -> None:
        self.features, self._positions, self._tile = features, positions, tile
        self.constant = torch.zeros_like(features[0])
        self._maps: Maps = ()

    def looking(self, attention: Any) -> Looking:
        """Prepare for an attention of tokens to the image as it is now."""
        # A bias of keys, and what is constant of them, is the same for all positions, which softmax does not see.
        keys, positions = self._projected(attention, attention.k_proj.weight, self._positions)
        values = heads(attention, F.linear(self.features, attention.v_proj.weight))
        tiles = zip(self._tiles(keys), self._tiles(positions), self._tiles(values, 1), strict=True)
        return Looking(
            attention,
            attention.v_proj(self.constant),
            self.row_maps(attention.k_proj.weight),
            self.row_maps(attention.v_proj.weight),
            tuple(LookingTile(*tile) for tile in tiles),
        )

    def absorb(self, attention: Any, norm: Any) -> Absorbing:
        """Let the image look at tokens and be normalised, as far as that is the same for all prompts."""
        asking, scaling = attention.q_proj, attention.scaling
        queries, positions = self._projected(
            attention, asking.weight * scaling, self._positions + self.constant, asking.bias * scaling
        )
        # A head's weights sum to 1, so that the shares of what is constant come together.
        constant = (self.constant + attention.o_proj.bias) / attention.num_attention_heads
        row_queries = self.row_maps(asking.weight * scaling)
        projection = by_head(attention, attention.o_proj.weight.T)
        to_rows = torch.cat([projection, constant.expand(len(projection), 1, -1)], dim=1)
        self._maps = tuple(centred(one) for one in (*self._maps, to_rows))
        shared = centred(self.features)
        crossings = [self._tiles(one) for one in self.row_maps(shared * (2 / shared.shape[1]))]
        tiles = zip(
            self._tiles(queries),
            self._tiles(positions),
            zip(*crossings, strict=True),
            self._tiles(shared.square().mean(dim=1)),
            strict=True,
        )
        step = Absorbing(attention, norm, row_queries, self._maps, tuple(AbsorbingTile(*tile) for tile in tiles))
        self.features, self.constant = shared * norm.weight, norm.bias
        self._maps = tuple(one * norm.weight for one in self._maps)
        return step

    def row_maps(self, weight: Float[Tensor, "J C"]) -> Maps:
        """Return maps of each layer's values to what a projection makes of their rows."""
        return tuple(one @ weight.T for one in self._maps)

    def _projected(
        self, attention: Any, weight: Float[Tensor, "I C"], positions: Float[Tensor, "L C"], bias: Tensor | None = None
    ) -> tuple[Float[Tensor, "H d L"], Float[Tensor, "H d L"] | None]:
        """Project the shared part and the positions; before the first layer, when nothing scales it, their sum."""
        if not self._maps:
            return by_channel(attention, F.linear(self.features + positions, weight, bias)), None
        return (
            by_channel(attention, F.linear(self.features, weight)),
            by_channel(attention, F.linear(positions, weight, bias)),
        )

    def _tiles(self, values: Tensor | None, dim: int = -1) -> Sequence[Any]:
        """Split an axis of positions into tiles, each in memory of its own."""
        if values is None:
            return [None] * len(torch.split(self.features, self._tile))
        return [part.contiguous() for part in torch.split(values, self._tile, dim)]


def centred(values: Tensor) -> Tensor:
    """Take the mean over the last axis away."""
    return values - values.mean(dim=-1, keepdim=True)


def look(step: Looking, asking: Float[Tensor, "N T C"], seen: Seen | None) -> Float[Tensor, "N T C"]:
    """Let tokens look at what each prompt has made of the image; before the first layer, at the image itself."""
    attention = step.attention
    queries = heads(attention, attention.q_proj(asking) * attention.scaling)
    if seen is None:
        (found,) = merge([_look_at_shared(queries, tile) for tile in step.tiles])
    else:
        products = _products(attention, queries, made(seen.values, step.row_keys))
        tiles = zip(step.tiles, seen.tiles, strict=True)
        found, mixed = merge([_look_at_seen(queries, products, shared, own) for shared, own in tiles])
        found = found + mixed @ heads(attention, made(seen.values, step.row_values))
    return cast(Tensor, attention.o_proj(found.transpose(1, 2).flatten(2) + step.bias))


def _look_at_shared(queries: Float[Tensor, "N H T d"], tile: LookingTile) -> Looked:
    weights, highest = exponentials(shared_product(queries, tile.keys), dim=-1)
    return Looked(highest, weights.sum(dim=-1, keepdim=True), (_by_weight(weights, tile.values),))


def _look_at_seen(
    queries: Float[Tensor, "N H T d"], products: Float[Tensor, "N HT R"], shared: LookingTile, own: SeenTile
) -> Looked:
    assert shared.positions is not None
    scores = _scores(queries, products, shared.keys, shared.positions, own)
    weights, highest = exponentials(scores, dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    mixed = torch.unflatten(torch.bmm(weights.flatten(1, 2), own.coefficients.mT), 1, weights.shape[1:3])
    count, number, length, positions = weights.shape
    scaled = weights.new_empty((number, count, length, positions)).transpose(0, 1)
    torch.mul(weights, own.scale[:, None, None], out=scaled)
    return Looked(highest, total, (_by_weight(scaled, shared.values), mixed))


def _by_weight(weights: Float[Tensor, "N H T l"], values: Float[Tensor, "H l d"]) -> Float[Tensor, "N H T d"]:
    """Sum values that all prompts share; of the weights the heads come first in memory."""
    by_heads = weights.transpose(0, 1)
    return torch.unflatten(torch.bmm(by_heads.flatten(1, 2), values), 1, by_heads.shape[1:3]).transpose(0, 1)


def made(values: Sequence[Float[Tensor, "N H T d1"]], maps: Maps) -> Float[Tensor, "N R J"]:
    """Make of each layer's values what a map makes of them, in the order of the coefficients."""
    return torch.cat([shared_product(own, one).flatten(1, 2) for own, one in zip(values, maps, strict=True)], dim=1)


def _products(
    attention: Any, tokens: Float[Tensor, "N H T d"], rows: Float[Tensor, "N R I"]
) -> Float[Tensor, "N HT R"]:
    """Multiply tokens with the projected rows, head by head."""
    return (tokens @ heads(attention, rows).mT).flatten(1, 2)


def _scores(
    tokens: Float[Tensor, "N H T d"],
    products: Float[Tensor, "N HT R"],
    shared: Float[Tensor, "H d l"],
    positions: Float[Tensor, "H d l"],
    own: SeenTile,
) -> Float[Tensor, "N H T l"]:
    """Multiply tokens with what an attention projects of each prompt's image."""
    scores = own.scale.new_empty((*tokens.shape[:3], shared.shape[2]))
    scale = own.scale[:, None, None]
    torch.addcmul(shared_product(tokens, positions), shared_product(tokens, shared), scale, out=scores)
    scores.flatten(1, 2).baddbmm_(products, own.coefficients)
    return scores


def absorb(
    step: Absorbing, asking: Float[Tensor, "N T C"], tokens: Float[Tensor, "N T C"], seen: Seen | None, room: Room
) -> Seen:
    """Let the image look at tokens, add what it sees, and normalise.

    Args:
        step: What prompts share.
        asking: The tokens, with those that were given, for the keys.
        tokens: The tokens, for the values.
        seen: The features until now; None before the first layer.
        room: Where the coefficients are to be, those until now included.
    """
    attention = step.attention
    keys = heads(attention, attention.k_proj(asking))
    values = F.pad(heads(attention, attention.v_proj(tokens)), (0, 1), value=1.0)
    every = (*(() if seen is None else seen.values), values)
    products = None
    if seen is not None:
        products = _products(attention, keys, made(seen.values, step.row_queries))
    rows = made(every, step.rows)
    squares = _squares(rows / rows.shape[2] ** 0.5, values.shape[1] * values.shape[2])
    tiles = []
    for index, (shared, place) in enumerate(zip(step.tiles, room, strict=True)):
        own = None if seen is None else seen.tiles[index]
        before = 0 if own is None else own.coefficients.shape[1]
        coefficients = place[: len(keys), : rows.shape[1]]
        weights = torch.unflatten(coefficients[:, before:], 1, keys.shape[1:3])
        if own is None:
            exponentials(shared_product(keys, shared.queries), dim=2, out=weights)
        else:
            assert products is not None
            assert shared.positions is not None
            exponentials(_scores(keys, products, shared.queries, shared.positions, own), dim=2, out=weights)
        weights.div_(weights.sum(dim=2, keepdim=True))
        scale = _variance(shared, own, coefficients, squares, every).add_(step.norm.eps).rsqrt_()
        coefficients.mul_(scale[:, None])
        tiles.append(SeenTile(scale if own is None else scale * own.scale, coefficients))
    return Seen(every, tuple(tiles))


def _squares(rows: Float[Tensor, "N R C"], layer: int) -> list[Float[Tensor, "N HT _"]]:
    """Multiply each layer's rows with those of the layers until then, of which the other layers' count twice."""
    found = []
    for stop in range(layer, rows.shape[1] + 1, layer):
        these = rows[:, stop - layer : stop]
        products = these @ rows[:, :stop].mT
        products[:, :, : stop - layer] *= 2
        found.append(products)
    return found


def _variance(
    shared: AbsorbingTile,
    own: SeenTile | None,
    coefficients: Float[Tensor, "N R l"],
    squares: Sequence[Float[Tensor, "N HT _"]],
    values: Sequence[Float[Tensor, "N H T d1"]],
) -> Float[Tensor, "N l"]:
    """Return the mean square over channels of scale * shared + coefficients' rows, all of which are centred."""
    variance = shared.square if own is None else shared.square * own.scale.square()
    for products, given, crossing in zip(squares, values, shared.crossings, strict=True):
        stop = products.shape[2]
        these = coefficients[:, stop - products.shape[1] : stop]
        part = torch.bmm(products, coefficients[:, :stop])
        crossed = torch.unflatten(part, 1, given.shape[1:3])
        product = shared_product(given, crossing)
        if own is None:
            crossed.add_(product)
        else:
            crossed.addcmul_(product, own.scale[:, None, None])
        variance = variance + part.mul_(these).sum(dim=1)
    # Rounding may leave less than nothing.
    return variance.clamp(min=0)
