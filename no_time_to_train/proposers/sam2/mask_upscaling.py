"""Masks from a prompt's features: two transposed convolutions as matrix products, and a filter for each mask.

A CPU draws one prompt after the other, in memory that stays in its cache. A GPU draws many together: there a prompt
alone is a dozen products that take less time than their launch.
"""

import threading
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from no_time_to_train.proposers.sam2.image_state import Maps, PromptState, SharedImageState, centred, project_values

# Prompts that a GPU upscales together: 8 MB each at 64 x 64 positions, a few times over.
_TOGETHER = 64


class DrawingTile(NamedTuple):
    """Some rows of positions, l of them, with four pixels to each and then four to each of those.

    Attributes:
        shared: What the shared part of the features becomes at stride 8, less its means.
        stride8: What is added there: high-resolution features, the constant, the bias; likewise.
        stride4: What is added at stride 4: high-resolution features and the bias.
        order: Where each pixel of these rows of a mask, row by row, lies among those of `stride4`.
    """

    shared: Float[Tensor, "l C8x4"]
    stride8: Float[Tensor, "l C8x4"]
    stride4: Float[Tensor, "l4 C4x4"]
    order: Int[Tensor, " l16"]


class _Memory(threading.local):
    """Memory that a thread uses again: fresh memory costs more than what is computed in it."""

    def __init__(self, tile: DrawingTile) -> None:
        self.small, self.large = torch.empty_like(tile.stride8), torch.empty_like(tile.stride4)


class MaskDrawing(NamedTuple):
    """Draws masks on one image.

    Attributes:
        size: h and w, of L = h * w positions.
        norm: The layer norm after the first transposed convolution.
        weight: The second transposed convolution as a matrix.
        row_maps: From values to what the first makes of their rows.
        tiles: The positions, whole rows.
        memory: What a thread upscales in.
    """

    size: tuple[int, int]
    norm: Any
    weight: Float[Tensor, "C8 C4x4"]
    row_maps: Maps
    tiles: tuple[DrawingTile, ...]
    memory: _Memory

    @classmethod
    def prepare(
        cls,
        decoder: Any,
        shared: SharedImageState,
        size: tuple[int, int],
        stride4: Float[Tensor, "C4 H4 W4"],
        stride8: Float[Tensor, "C8 H8 W8"],
        tile: int,
    ) -> "MaskDrawing":
        """Compute what all masks on an image share.

        Args:
            decoder: The mask decoder's module.
            shared: The image after the last layer.
            size: h and w.
            stride4: High-resolution features, (C4, 4h, 4w).
            stride8: Likewise, (C8, 2h, 2w).
            tile: Positions at a time, whole rows.
        """
        first, second = decoder.upscale_conv1, decoder.upscale_conv2
        # A layer norm follows the first: its mean is taken out of the weights.
        weight = centred(torch.unflatten(_as_matrix(first), 1, (4, -1))).flatten(1)
        added = centred(_nested(stride8, 1) + first.bias).view(len(shared.features), -1)
        added += shared.constant @ weight
        upscaled = shared.features @ weight
        pixels = torch.arange(16 * tile, device=stride4.device).view(-1, size[1], 2, 2, 2, 2)
        order = pixels.permute(0, 2, 4, 1, 3, 5).flatten()
        parts = zip(
            torch.split(upscaled, tile),
            torch.split(added, tile),
            torch.split((_nested(stride4, 2) + second.bias).view(4 * len(upscaled), -1), 4 * tile),
            strict=True,
        )
        tiles = tuple(DrawingTile(one, two, three, order[: 16 * len(one)]) for one, two, three in parts)
        return cls(
            size,
            decoder.upscale_layer_norm,
            _as_matrix(second),
            shared.row_maps(weight.T),
            tiles,
            _Memory(tiles[0]),
        )

    def draw(
        self, images: PromptState, filters: Float[Tensor, "N M C4"], kept: Bool[Tensor, "N M"]
    ) -> Float[Tensor, "K Hm Wm"]:
        """Draw the masks that are kept, upscaling the features of a prompt once.

        Args:
            images: The prompts' images after the last layer.
            filters: A filter of the upscaled features for each mask.
            kept: Which masks to draw.
        """
        if filters.is_cuda:
            return self._draw_together(images, filters, kept)
        return self._draw_one_by_one(images, filters, kept)

    def _draw_one_by_one(
        self, images: PromptState, filters: Float[Tensor, "N M C4"], kept: Bool[Tensor, "N M"]
    ) -> Float[Tensor, "K Hm Wm"]:
        height, width = self.size
        counts = kept.sum(dim=1).tolist()
        drawn = filters.new_empty((sum(counts), 4 * height, 4 * width))
        wanted = [own[these] for own, these in zip(filters, kept, strict=True)]
        rows = project_values(images.values, self.row_maps)
        stop = 0
        for tile, own in zip(self.tiles, images.tiles, strict=True):
            start, stop = stop, stop + len(tile.order)
            for index, masks in enumerate(torch.split(drawn.flatten(1)[:, start:stop], counts)):
                if len(masks):
                    upscaled = self._upscale_one(tile, own.scale[index], own.coefficients[index], rows[index])
                for one, mask in zip(wanted[index], masks, strict=True):
                    torch.index_select(torch.mv(upscaled, one), 0, tile.order, out=mask)
        return drawn

    def _draw_together(
        self, images: PromptState, filters: Float[Tensor, "N M C4"], kept: Bool[Tensor, "N M"]
    ) -> Float[Tensor, "K Hm Wm"]:
        height, width = self.size
        asked = kept.any(dim=1).nonzero()[:, 0]
        rows = project_values(images.values, self.row_maps)
        drawn = [filters.new_empty((0, 4 * height, 4 * width))]
        for some in torch.split(asked, _TOGETHER) if len(asked) else ():
            bands = []
            for tile, own in zip(self.tiles, images.tiles, strict=True):
                small = torch.addcmul(tile.stride8, tile.shared, own.scale[some, :, None])
                small.baddbmm_(own.coefficients[some].mT, rows[some])
                upscaled = self._upscale(small, tile, small.new_empty((len(some), *tile.stride4.shape)))
                logits = upscaled.view(len(some), len(tile.order), -1) @ filters[some].mT
                bands.append(logits.mT[kept[some]].index_select(1, tile.order))
            drawn.append(torch.cat(bands, dim=1).view(-1, 4 * height, 4 * width))
        return torch.cat(drawn)

    def _upscale_one(
        self,
        tile: DrawingTile,
        scale: Float[Tensor, " l"],
        coefficients: Float[Tensor, "R l"],
        rows: Float[Tensor, "R C8x4"],
    ) -> Float[Tensor, "l16 C4"]:
        """Upscale some positions of one prompt, into memory that the next call uses again."""
        small, large = self.memory.small[: len(tile.shared)], self.memory.large[: len(tile.stride4)]
        torch.addcmul(tile.stride8, tile.shared, scale[:, None], out=small)
        small.addmm_(coefficients.T, rows)
        return self._upscale(small, tile, large).view(len(tile.order), -1)

    def _upscale(
        self, small: Float[Tensor, "*N l C8x4"], tile: DrawingTile, large: Float[Tensor, "*N l4 C4x4"]
    ) -> Float[Tensor, "*N l4 C4x4"]:
        """Normalise features at stride 8, in place, and upscale them into `large`."""
        norm = self.norm
        four = small.view(*large.shape[:-1], -1)
        variance = torch.linalg.vector_norm(four, dim=-1, keepdim=True).square_().div_(four.shape[-1])
        four.mul_(variance.add_(norm.eps).rsqrt_())
        torch.addcmul(norm.bias, four, norm.weight, out=four)
        torch.matmul(_gelu(four), self.weight, out=large)
        return _gelu(large.add_(tile.stride4))


def _gelu(values: Tensor) -> Tensor:
    """Apply the exact GELU in place."""
    result: Tensor = torch.ops.aten.gelu_(values)
    return result


def _as_matrix(convolution: Any) -> Float[Tensor, "C_in C_out4"]:
    """Return a transposed convolution of kernel 2 and stride 2 as a matrix: a pixel to its four, row by row."""
    return cast(Tensor, convolution.weight).permute(0, 2, 3, 1).flatten(1)


def _nested(level: Float[Tensor, "C Hl Wl"], halvings: int) -> Float[Tensor, "P C"]:
    """Order the pixels of a map as repeated upscaling by two gives them: pixel, its four, the four of each."""
    for axis in (2, 1):
        level = torch.unflatten(level, axis, (-1, *[2] * halvings))
    # C, y, (i, ii), x, (j, jj)  ->  y, x, i, j, ii, jj, C
    rows, columns = range(1, 2 + halvings), range(2 + halvings, 3 + 2 * halvings)
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return level.permute(*order, 0).flatten(0, -2).contiguous()
