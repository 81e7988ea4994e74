"""Masks from prompts and an image's embeddings: the transformer, the upscaling, and a filter for each mask."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.decoder.prompted_image import PromptedImage, project_values
from no_time_to_train.jax_models.sam2.decoder.shared_image import SharedImage
from no_time_to_train.jax_models.sam2.decoder.two_way import TwoWayTransformer
from no_time_to_train.jax_models.sam2.feed_forward import FeedForward
from no_time_to_train.jax_models.sam2.prompt_encoder import Embedding

_EPS = 1e-6


class Masks(NamedTuple):
    """What the decoder says to N prompts.

    Attributes:
        logits: Of K masks each, positive inside, at stride 4.
        predicted_iou: In [0, 1], of each mask with the object.
        object_score_logits: Positive where there is an object.
    """

    logits: Float[Array, "N K Hm Wm"]
    predicted_iou: Float[Array, "N K"]
    object_score_logits: Float[Array, "N 1"]


class Upscaling(eqx.Module):
    """A transposed convolution of 2 x 2 pixels, every 2 pixels: each pixel becomes four, by a matrix product."""

    weight: Float[Array, "C_in C_out 2 2"]
    bias: Float[Array, " C_out"]

    def __init__(self, dim: int, dim_out: int, *, key: PRNGKeyArray) -> None:
        self.weight = jax.random.normal(key, (dim, dim_out, 2, 2)) / dim**0.5
        self.bias = jnp.zeros(dim_out)

    @property
    def matrix(self) -> Float[Array, "C_in C_out4"]:
        """What makes of a pixel its four, row by row."""
        dim, dim_out = self.weight.shape[:2]
        return lax.reshape(lax.transpose(self.weight, (0, 2, 3, 1)), (dim, 4 * dim_out))


class MaskDecoder(eqx.Module):
    """The mask decoder.

    Attributes:
        conv_s0: Makes the finest level of the neck narrower; a part of the image's embedding.
        conv_s1: Likewise the next one.
    """

    iou_token: Embedding
    mask_tokens: Embedding
    transformer: TwoWayTransformer
    upscale_conv1: Upscaling
    upscale_conv2: Upscaling
    upscale_layer_norm: eqx.nn.LayerNorm
    output_hypernetworks_mlps: tuple[FeedForward, ...]
    iou_prediction_head: FeedForward
    conv_s0: eqx.nn.Conv2d
    conv_s1: eqx.nn.Conv2d
    obj_score_token: Embedding
    pred_obj_score_head: FeedForward

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        dim, masks = architecture.dim, architecture.num_masks + 1
        keys = iter(jax.random.split(key, 10 + masks))
        self.iou_token = Embedding(1, dim, key=next(keys))
        self.mask_tokens = Embedding(masks, dim, key=next(keys))
        self.obj_score_token = Embedding(1, dim, key=next(keys))
        self.transformer = TwoWayTransformer(architecture, key=next(keys))
        self.upscale_conv1 = Upscaling(dim, dim // 4, key=next(keys))
        self.upscale_conv2 = Upscaling(dim // 4, dim // 8, key=next(keys))
        self.upscale_layer_norm = eqx.nn.LayerNorm(dim // 4, eps=_EPS)
        self.conv_s0 = eqx.nn.Conv2d(dim, dim // 8, 1, key=next(keys))
        self.conv_s1 = eqx.nn.Conv2d(dim, dim // 4, 1, key=next(keys))
        self.iou_prediction_head = FeedForward(
            dim, architecture.iou_head_dim, masks, architecture.iou_head_depth, key=next(keys)
        )
        self.pred_obj_score_head = FeedForward(dim, dim, 1, 3, key=next(keys))
        self.output_hypernetworks_mlps = tuple(FeedForward(dim, dim, dim // 8, 3, key=next(keys)) for _ in range(masks))

    def __call__(
        self,
        embeddings: tuple[Float[Array, "C4 H4 W4"], Float[Array, "C8 H8 W8"], Float[Array, "C H W"]],
        positions: Float[Array, "L C"],
        prompts: Float[Array, "N P C"],
        *,
        multimask: bool,
    ) -> Masks:
        """Decode N prompts on one image.

        Args:
            embeddings: Of the image, at strides 4, 8 and 16, the last with the embedding of no mask.
            positions: Of the image, row by row.
            prompts: Their tokens.
            multimask: The masks of a prompt that may mean several objects, instead of the single one.
        """
        stride4, stride8, features = embeddings
        dim, height, width = features.shape
        pixels = lax.transpose(lax.reshape(features, (dim, height * width)), (1, 0))
        own = (self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight)
        own_tokens = lax.concatenate(own, 0)
        tokens = lax.concatenate([layers.repeated(own_tokens[None], prompts), prompts], 1)
        tokens, shared, images = self.transformer(tokens, pixels, positions)
        chosen = slice(1, None) if multimask else slice(0, 1)
        number = len(self.output_hypernetworks_mlps)
        filters = lax.concatenate(
            [
                network(lax.slice_in_dim(tokens, 2 + index, 3 + index, axis=1))
                for index, network in list(enumerate(self.output_hypernetworks_mlps))[chosen]
            ],
            1,
        )
        first, last, _ = chosen.indices(number)
        # Before the masks: an exported graph, which takes a size from what came last, then scores without drawing.
        iou = jax.nn.sigmoid(self.iou_prediction_head(_token(tokens, 1)))
        predicted_iou = lax.slice_in_dim(iou, first, last, axis=1)
        object_score_logits = self.pred_obj_score_head(_token(tokens, 0))
        return Masks(
            logits=self._draw(shared, images, filters, stride4, stride8, (height, width)),
            predicted_iou=predicted_iou,
            object_score_logits=object_score_logits,
        )

    def _draw(
        self,
        shared: SharedImage,
        images: PromptedImage,
        filters: Float[Array, "N K C4"],
        stride4: Float[Array, "C4 H4 W4"],
        stride8: Float[Array, "C8 H8 W8"],
        size: tuple[int, int],
    ) -> Float[Array, "N K H4 W4"]:
        """Upscale each prompt's image, and draw its masks, each by its filter."""
        first, second = self.upscale_conv1, self.upscale_conv2
        matrix = first.matrix
        # What all prompts have at stride 8, with four pixels to a position: the image's high resolution, the constant.
        added = _nested(stride8, size) + first.bias[None]
        added = lax.reshape(added, (1, size[0] * size[1], matrix.shape[1])) + (shared.constant @ matrix)[None, None]
        own = project_values(images.values, shared.row_maps(matrix.T))
        small = layers.matmul(lax.transpose(images.coefficients, (0, 2, 1)), own)
        small = small + images.scale[:, :, None] * (shared.features @ matrix)[None] + added
        count = filters.shape[0]
        small = layers.reshaped(small, (count, 4 * size[0] * size[1], first.bias.shape[0]))
        small = jax.nn.gelu(layers.map_norm(self.upscale_layer_norm, small), approximate=False)
        large = layers.flatten_tokens(small) @ second.matrix
        large = layers.reshaped(large, (count, 16 * size[0] * size[1], second.bias.shape[0]))
        large = jax.nn.gelu(large + (_nested(stride4, size) + second.bias[None])[None], approximate=False)
        drawn = layers.matmul(filters, lax.transpose(large, (0, 2, 1)))
        # y, x, i, j, ii, jj  ->  y, i, ii, x, j, jj
        count, number, _ = drawn.shape
        drawn = layers.reshaped(drawn, (count, number, *size, 2, 2, 2, 2))
        drawn = lax.transpose(drawn, (0, 1, 2, 4, 6, 3, 5, 7))
        return layers.reshaped(drawn, (count, number, 4 * size[0], 4 * size[1]))


def _token(tokens: Float[Array, "N T C"], index: int) -> Float[Array, "N C"]:
    return lax.squeeze(lax.slice_in_dim(tokens, index, index + 1, axis=1), (1,))


def _nested(level: Float[Array, "C H W"], size: tuple[int, int]) -> Float[Array, "P C"]:
    """Order the pixels of a map as repeated upscaling by two gives them: pixel, its four, the four of each."""
    dim, height, width = level.shape
    halvings = (height // size[0]).bit_length() - 1
    split = lax.reshape(level, (dim, size[0], *[2] * halvings, size[1], *[2] * halvings))
    # C, y, (i, ii), x, (j, jj)  ->  y, x, i, j, ii, jj, C
    rows, columns = range(1, 2 + halvings), range(2 + halvings, 3 + 2 * halvings)
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return lax.reshape(lax.transpose(split, (*order, 0)), (height * width, dim))
