"""Masks from prompts and an image's embeddings: the transformer, the upscaling, and a filter for each mask."""

from typing import NamedTuple

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.sam2.decoder.mask_upscaling import MaskUpscaling, Upscaling
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
        upscaling = MaskUpscaling(self.upscale_conv1, self.upscale_conv2, self.upscale_layer_norm)
        # Before the masks: an exported graph, which takes a size from what came last, then scores without drawing.
        iou = jax.nn.sigmoid(self.iou_prediction_head(_token(tokens, 1)))
        predicted_iou = lax.slice_in_dim(iou, first, last, axis=1)
        object_score_logits = self.pred_obj_score_head(_token(tokens, 0))
        return Masks(
            logits=upscaling.draw_masks(shared, images, filters, stride4, stride8),
            predicted_iou=predicted_iou,
            object_score_logits=object_score_logits,
        )


def _token(tokens: Float[Array, "N T C"], index: int) -> Float[Array, "N C"]:
    return lax.squeeze(lax.slice_in_dim(tokens, index, index + 1, axis=1), (1,))
