"""Many prompts on one image, by SAM2's own decoder weights, in another order of computation.

transformers' decoder repeats the image for every prompt and projects it anew each time. Here what does not depend on
the prompt is computed once per image, and a prompt's image features are never written out (`low_rank_attention.py`).
The predicted IoU is known before any mask is drawn, and only masks that are wanted go through the upscaling. Results
are those of transformers up to rounding.
"""

import copy
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import Sam2Model

from no_time_to_train.encoders.cuda_graphs import Replayed
from no_time_to_train.matching.precision import inference
from no_time_to_train.proposers.base import Embedding, MaskFilter, MaskProposals, Prompts
from no_time_to_train.proposers.sam2.attention_ops import self_attend
from no_time_to_train.proposers.sam2.image_state import ImageToToken, PromptState, SharedImageState, TokenToImage
from no_time_to_train.proposers.sam2.low_rank_attention import (
    Workspace,
    attend_to_image,
    attend_to_tokens,
)
from no_time_to_train.proposers.sam2.mask_upscaling import MaskDrawing
from no_time_to_train.proposers.sam2.worker_threads import map_in_threads


class _ChunkSize(NamedTuple):
    """What is computed with at a time: few prompts and positions stay in the cache, many fill a GPU."""

    prompts: int
    positions: int


# A GPU replays so many prompts or more, a power of two of them; the last chunk is filled up.
_FEWEST_REPLAYED = 16

_CHUNK_SIZES = {"cpu": _ChunkSize(8, 512), "cuda": _ChunkSize(128, 4096)}


class Layers(NamedTuple):
    """What all prompts on an image share of the transformer's layers.

    Attributes:
        token_to_image: The attention of each layer's tokens to the image, and the last one.
        image_to_token: The attention of the image to each layer's tokens.
    """

    token_to_image: tuple[TokenToImage, ...]
    image_to_token: tuple[ImageToToken, ...]

    def workspace(self, prompts: int, tokens: int) -> Workspace:
        """Make memory for the coefficients of so many prompts of so many tokens each."""
        first = self.image_to_token[0]
        rows = len(self.image_to_token) * len(first.rows[0]) * tokens
        return [tile.square.new_empty((prompts, rows, len(tile.square))) for tile in first.tiles]


@dataclass(frozen=True)
class ImageState:
    """What is computed once per image.

    Attributes:
        decoder: The mask decoder's module, in float32 or better.
        layers: The transformer's.
        drawing: Draws masks.
        embedding: What all of it was computed from.
    """

    decoder: Any
    layers: Layers
    drawing: MaskDrawing
    embedding: Embedding


class _Decoded(NamedTuple):
    """Prompts after the transformer.

    Attributes:
        quality: The predicted IoU of the single mask and of the three others.
        filters: Of each mask, for the upscaled features.
        images: The prompts' images.
    """

    quality: Float[Tensor, "N M"]
    filters: Float[Tensor, "N M C4"]
    images: PromptState


class _Memory(threading.local):
    """Memory that a thread uses again: fresh memory costs more than what is computed in it."""

    def __init__(self, layers: Layers, prompts: int, tokens: int) -> None:
        self.coefficients = layers.workspace(prompts, tokens)


class PromptDecoder:
    """Decodes batches of prompts with the weights of a SAM2 model, which stays as it is.

    Args:
        model: Its prompt encoder and mask decoder are used, also under autocast in their own precision, and weights of
            16 bits in float32: differences of large sums are taken.
    """

    def __init__(self, model: Sam2Model) -> None:
        self._model = model
        decoder: Any = model.mask_decoder
        self._replayed_share = Replayed(partial(_share, model, decoder), decoder, _is_always_worth_it)
        self._replayed_layers = Replayed(partial(_run_layers, decoder), decoder, _is_always_worth_it)

    @inference()
    def prepare(self, embedding: Embedding) -> ImageState:
        """Compute what all prompts on an image share.

        Args:
            embedding: One image, on the model's device.
        """
        decoder: Any = self._model.mask_decoder
        if decoder.iou_token.weight.dtype.itemsize < 4:
            decoder = copy.deepcopy(decoder).float()
        if self._is_replayed(decoder):
            layers, drawing = self._replayed_share(embedding)
        else:
            layers, drawing = _share(self._model, decoder, embedding)
        return ImageState(decoder, layers, drawing, embedding)

    def selected(
        self, image: ImageState, prompts: Prompts, keep: MaskFilter, *, batch_size: int = 128
    ) -> Iterator[MaskProposals]:
        """Decode prompts and draw those of each one's three masks that are wanted, a few prompts at a time.

        Args:
            image: From `prepare`.
            prompts: On the model's device, in pixels of its input.
            keep: Tells from the predicted IoU of the three masks of N prompts, (N, 3), which to draw. On a CPU it is
                called in several threads, in any order.
            batch_size: Most prompts that are decoded together.

        Yields:
            The masks of the first prompt, then those of the second, and so on.
        """

        def draw(decoded: _Decoded) -> MaskProposals:
            # The first mask is the single one.
            quality = decoded.quality[:, 1:]
            kept = keep(quality.float())
            masks = image.drawing.draw(decoded.images, decoded.filters, F.pad(kept, (1, 0)))
            return MaskProposals(masks.float(), quality[kept].float())

        return self._decode(image, prompts, batch_size, draw)

    def single(self, image: ImageState, prompts: Prompts, *, batch_size: int = 128) -> Iterator[MaskProposals]:
        """Decode prompts into one mask each: Meta's single mask, or the best of three where that one is unstable.

        Arguments as of `selected`.
        """

        def draw(decoded: _Decoded) -> MaskProposals:
            quality = decoded.quality
            every = torch.ones_like(quality, dtype=torch.bool)
            masks = image.drawing.draw(decoded.images, decoded.filters, every)
            masks = torch.unflatten(masks, 0, quality.shape)
            if image.decoder.dynamic_multimask_via_stability:
                chosen = image.decoder._dynamic_multimask_via_stability(masks[None], quality[None])
                masks, quality = (part[0] for part in chosen)
            return MaskProposals(masks[:, 0].float(), quality[:, 0].float())

        return self._decode(image, prompts, batch_size, draw)

    @inference()
    def _decode(
        self, image: ImageState, prompts: Prompts, batch_size: int, draw: Callable[[_Decoded], MaskProposals]
    ) -> Iterator[MaskProposals]:
        """Run the layers and draw, over a few prompts at a time."""
        weights = image.decoder.iou_token.weight
        on_cpu = weights.device.type == "cpu"
        at_once = min(batch_size, _chunk_size(weights).prompts)
        if on_cpu:
            at_once = _even_share(len(prompts), at_once)
        given = self._tokens(image.decoder, prompts)
        is_replayed = self._is_replayed(image.decoder)
        memory = None if is_replayed else _Memory(image.layers, min(at_once, len(prompts)), given.shape[1])

        @inference()
        def decode(few: Float[Tensor, "N T C"]) -> MaskProposals:
            if memory is None:
                return draw(self._replay_layers(image.layers, few, at_once))
            return draw(_run_layers(image.decoder, (image.layers, few), memory.coefficients))

        some = torch.split(given, at_once) if len(given) else ()
        return map_in_threads(decode, some) if on_cpu else map(decode, some)

    def _is_replayed(self, decoder: Any) -> bool:
        """Return whether CUDA graphs may be used: of the model's own decoder, rather than of one of an image."""
        return decoder is self._model.mask_decoder and decoder.iou_token.weight.is_cuda

    def _replay_layers(self, layers: Layers, given: Float[Tensor, "N T C"], at_once: int) -> _Decoded:
        """Run the layers on a few prompts, filled up to a number of which there is a graph."""
        count = len(given)
        filled = min(at_once, max(_FEWEST_REPLAYED, 1 << (count - 1).bit_length()))
        decoded = self._replayed_layers((layers, F.pad(given, (0, 0, 0, 0, 0, filled - count))))
        return decoded if filled == count else cast(_Decoded, pytree.tree_map(lambda part: part[:count], decoded))

    def _tokens(self, decoder: Any, prompts: Prompts) -> Float[Tensor, "N T C"]:
        """Put the decoder's own tokens before those of the prompts."""
        points, labels, boxes = (
            None if part is None else part[None] for part in (prompts.points, prompts.labels, prompts.boxes)
        )
        sparse, _ = self._model.get_prompt_embeddings(points, cast(torch.LongTensor | None, labels), boxes)
        own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        return torch.cat([own.expand(len(prompts), -1, -1), sparse[0].to(own.dtype)], dim=1)


def _chunk_size(weights: Tensor) -> _ChunkSize:
    return _CHUNK_SIZES.get(weights.device.type, _CHUNK_SIZES["cpu"])


def _even_share(count: int, most: int) -> int:
    """Return how many prompts to decode at a time so that two threads have as much to do, whatever their number is."""
    pairs = math.ceil(count / (2 * most))
    return math.ceil(count / (2 * pairs)) if count else 0


def _is_always_worth_it(network: Any, given: Any) -> bool:
    """Prompts are a hundred small products a layer."""
    return True


def _share(model: Sam2Model, decoder: Any, embedding: Embedding) -> tuple[Layers, MaskDrawing]:
    """Compute what all prompts on an image share."""
    dtype = decoder.iou_token.weight.dtype
    features = embedding["features"][0].to(dtype).flatten(1).T + model.prompt_encoder.no_mask_embed.weight
    # Positions lose whole pixels in bfloat16, and cost nothing.
    positions = model.get_image_wide_positional_embeddings()[0].flatten(1).T.to(dtype)
    height, width = embedding["features"].shape[2:]
    # Whole rows.
    tile = min(height, max(1, _chunk_size(features).positions // width)) * width
    shared = SharedImageState(features, positions, tile)
    token_to_image, image_to_token = [], []
    for layer in decoder.transformer.layers:
        token_to_image.append(shared.token_to_image(layer.cross_attn_token_to_image))
        image_to_token.append(shared.image_to_token(layer.cross_attn_image_to_token, layer.layer_norm4))
    token_to_image.append(shared.token_to_image(decoder.transformer.final_attn_token_to_image))
    stride4, stride8 = (embedding[name][0].to(dtype) for name in ("stride4", "stride8"))
    drawing = MaskDrawing.prepare(decoder, shared, (height, width), stride4, stride8, tile)
    return Layers(tuple(token_to_image), tuple(image_to_token)), drawing


def _run_layers(
    decoder: Any, given: tuple[Layers, Float[Tensor, "N T C"]], workspace: Workspace | None = None
) -> _Decoded:
    """Run the layers on a few prompts; in memory of their own, if None is given."""
    shared, own = given
    tokens, images = own, None
    workspace = workspace or shared.workspace(*own.shape[:2])
    layers = zip(decoder.transformer.layers, shared.token_to_image, shared.image_to_token, strict=False)
    for layer, token_to_image, image_to_token in layers:
        if images is None:
            tokens = layer.layer_norm1(self_attend(layer.self_attn, own, own))
        else:
            asking = tokens + own
            tokens = layer.layer_norm1(tokens + self_attend(layer.self_attn, asking, tokens))
        tokens = layer.layer_norm2(tokens + attend_to_image(token_to_image, tokens + own, images))
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        images = attend_to_tokens(image_to_token, tokens + own, tokens, images, workspace)
    assert images is not None
    # Of the tokens only those are asked for any more that tell of masks: after the object's, before the prompt's.
    asked = slice(1, 2 + decoder.num_mask_tokens)
    tokens, own = tokens[:, asked], own[:, asked]
    found = attend_to_image(shared.token_to_image[-1], tokens + own, images)
    tokens = decoder.transformer.layer_norm_final_attn(tokens + found)
    networks = enumerate(decoder.output_hypernetworks_mlps)
    filters = torch.stack([network(tokens[:, 1 + index]) for index, network in networks], dim=1)
    return _Decoded(decoder.iou_prediction_head(tokens[:, 0]), filters, images)
