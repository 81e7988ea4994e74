"""Many prompts on one image, by SAM2's own decoder weights, in another order of computation.

transformers' decoder repeats the image for every prompt and projects it anew each time. Here what does not depend on
the prompt is computed once per image, and projections of the image fold onto the few tokens of a prompt, head by head:
``q . (W x) = (W' q) . x`` and ``attention (W x) = (attention x) W'``, so that the image's features are neither repeated
in the first layer nor projected in those after it. The predicted IoU is known before any mask is drawn, and only masks
that are wanted go through the upscaling. Results are those of transformers up to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Sam2Model

from no_time_to_train.matching.precision import full_precision
from no_time_to_train.models.sam2_types import ImageEmbedding, MaskPredictions, Prompts, SelectedMasks

# Prompts whose image features, 4 MB each at 64 x 64 x 256, exist at a time: few stay in the cache, many fill a GPU.
_AT_ONCE = {"cpu": 2, "cuda": 64}

Keep = Callable[[Float[Tensor, "N K"]], Bool[Tensor, "N K"]]


class ImageSide(NamedTuple):
    """What is computed once per image: L = h * w positions row by row, C channels, H heads of width d.

    Attributes:
        size: h and w.
        features: With the embedding of "no mask" added.
        keys: For the first layer's tokens to look at.
        values: Likewise.
        queries: By which the image looks at the first layer's tokens, scaled.
        position_keys: The positions' share of the keys of each later attention of tokens to the image.
        position_queries: The positions' share of the queries of each later attention of the image to tokens, scaled.
        stride8: High-resolution features and the bias of the convolution that they are added to, positions in the
            order in which that convolution, as a matrix product, gives them: four to each of L.
        stride4: Likewise, sixteen to each of L.
    """

    size: tuple[int, int]
    features: Float[Tensor, "L C"]
    keys: Float[Tensor, "H d L"]
    values: Float[Tensor, "H L d"]
    queries: Float[Tensor, "H d L"]
    position_keys: tuple[Float[Tensor, "H d L"], ...]
    position_queries: tuple[Float[Tensor, "H d L"], ...]
    stride8: Float[Tensor, "4L C8"]
    stride4: Float[Tensor, "16L C4"]


class _Decoded(NamedTuple):
    """Prompts after the transformer."""

    tokens: Float[Tensor, "N T C"]
    features: Float[Tensor, "N L C"]


class PromptDecoder:
    """Decodes batches of prompts with the weights of a SAM2 model, which stays as it is.

    Args:
        model: Its prompt encoder and mask decoder are used, in their own precision, also under autocast.
    """

    def __init__(self, model: Sam2Model) -> None:
        self._model = model

    @torch.inference_mode()
    @full_precision()
    def prepare(self, embedding: ImageEmbedding) -> ImageSide:
        """Compute what all prompts on an image share.

        Args:
            embedding: One image, on the model's device and in its dtype.
        """
        no_mask = self._model.prompt_encoder.no_mask_embed.weight
        features = embedding.features[0].flatten(1).T + no_mask
        # Positions lose whole pixels in bfloat16, and cost nothing.
        positions = self._model.get_image_wide_positional_embeddings()[0].flatten(1).T.to(features.dtype)
        first, *later = self._layers
        towards = first.cross_attn_token_to_image
        back = first.cross_attn_image_to_token
        stride4, stride8 = (level[0] for level in embedding.high_res_features)
        return ImageSide(
            size=(embedding.features.shape[2], embedding.features.shape[3]),
            features=features.contiguous(),
            keys=_by_channel(towards, towards.k_proj(features + positions)),
            values=_heads(towards, towards.v_proj(features)).contiguous(),
            queries=_by_channel(back, back.q_proj(features + positions) * back.scaling),
            # A bias of keys is the same for all positions, which softmax does not see.
            position_keys=tuple(
                _by_channel(attention, F.linear(positions, attention.k_proj.weight))
                for attention in (*(layer.cross_attn_token_to_image for layer in later), self._final)
            ),
            position_queries=tuple(
                _by_channel(attention, attention.q_proj(positions) * attention.scaling)
                for attention in (layer.cross_attn_image_to_token for layer in later)
            ),
            stride8=_nested(stride8, 1) + self._decoder.upscale_conv1.bias,
            stride4=_nested(stride4, 2) + self._decoder.upscale_conv2.bias,
        )

    def selected(self, image: ImageSide, prompts: Prompts, keep: Keep) -> SelectedMasks:
        """Decode prompts and draw those of each one's three masks that are wanted.

        Args:
            image: From `prepare`.
            prompts: On the model's device, in pixels of its input.
            keep: Tells from the predicted IoU of the three masks of N prompts which to draw.

        Returns:
            The masks of the first prompt, then those of the second, and so on.
        """
        parts = [self._draw(image, decoded, keep) for decoded in self._decode(image, prompts)]
        return SelectedMasks(*(torch.cat(part).float() for part in zip(*parts, strict=True)))

    def single(self, image: ImageSide, prompts: Prompts) -> MaskPredictions:
        """Decode prompts into one mask each: Meta's single mask, or the best of three where that one is unstable."""
        logits, qualities = [], []
        for decoded in self._decode(image, prompts):
            everything = self._quality(decoded)
            masks = self._draw_tokens(image, decoded, torch.ones_like(everything, dtype=torch.bool))
            masks = torch.unflatten(masks, 0, everything.shape)
            if self._decoder.dynamic_multimask_via_stability:
                chosen, quality = self._decoder._dynamic_multimask_via_stability(masks[None], everything[None])
                masks, everything = chosen[0], quality[0]
            logits.append(masks[:, :1].float())
            qualities.append(everything[:, :1].float())
        return MaskPredictions(torch.cat(logits), torch.cat(qualities))

    # Parts of the model, whose types transformers does not say ----------------------------------------------------

    @property
    def _decoder(self) -> Any:
        return self._model.mask_decoder

    @property
    def _layers(self) -> list[Any]:
        return list(self._model.mask_decoder.transformer.layers)

    @property
    def _final(self) -> Any:
        return self._model.mask_decoder.transformer.final_attn_token_to_image

    # The transformer ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _decode(self, image: ImageSide, prompts: Prompts) -> Iterator[_Decoded]:
        """Run the transformer, over a few prompts at a time."""
        with full_precision():
            given = self._tokens(prompts)
            tokens = self._first_tokens(image, given)
        step = _AT_ONCE.get(given.device.type, 2)
        for start in range(0, len(given), step):
            rows = slice(start, start + step)
            with full_precision():
                decoded = self._few(image, given[rows], tokens[rows])
            yield decoded

    def _tokens(self, prompts: Prompts) -> Float[Tensor, "N T C"]:
        """Put the decoder's own tokens before those of the prompts."""
        points, labels, boxes = (
            None if part is None else part[None] for part in (prompts.points, prompts.labels, prompts.boxes)
        )
        sparse, _ = self._model.get_prompt_embeddings(points, cast(torch.LongTensor | None, labels), boxes)
        decoder = self._decoder
        own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        return torch.cat([own.expand(len(prompts), -1, -1), sparse[0].to(own.dtype)], dim=1)

    def _first_tokens(self, image: ImageSide, given: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
        """Run the tokens' part of the first layer, for which the image is still the same to all prompts."""
        layer = self._layers[0]
        tokens = layer.layer_norm1(_among(layer.self_attn, given, given))
        attention = layer.cross_attn_token_to_image
        queries = _heads(attention, attention.q_proj(tokens + given))
        together = queries.transpose(0, 1).flatten(1, 2)
        seen = F.scaled_dot_product_attention(
            together[None], image.keys.mT[None], image.values[None], scale=attention.scaling
        )[0]
        seen = torch.unflatten(seen, 1, given.shape[:2]).permute(1, 2, 0, 3).flatten(2)
        tokens = layer.layer_norm2(tokens + attention.o_proj(seen))
        return cast(Tensor, layer.layer_norm3(tokens + layer.mlp(tokens)))

    def _few(self, image: ImageSide, given: Float[Tensor, "N T C"], tokens: Float[Tensor, "N T C"]) -> _Decoded:
        """Run the rest of the transformer, in which every prompt has image features of its own."""
        first, *later = self._layers
        back = first.cross_attn_image_to_token
        keys = _heads(back, back.k_proj(tokens + given))
        weights = _over_tokens(_shared_product(keys, image.queries), given.shape[1])
        features = torch.baddbmm(image.features.expand(len(given), -1, -1), weights.mT, _values(back, tokens))
        features = first.layer_norm4(features)
        for layer, position_keys, position_queries in zip(
            later, image.position_keys, image.position_queries, strict=False
        ):
            asking = tokens + given
            tokens = layer.layer_norm1(tokens + _among(layer.self_attn, asking, tokens))
            seen = _look(layer.cross_attn_token_to_image, tokens + given, features, position_keys)
            tokens = layer.layer_norm2(tokens + seen)
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            back = layer.cross_attn_image_to_token
            keys = _heads(back, back.k_proj(tokens + given))
            scores = _shared_product(keys, position_queries)
            scores.baddbmm_(_fold(keys, back.q_proj.weight * back.scaling), features.mT)
            weights = _over_tokens(scores, given.shape[1])
            features = layer.layer_norm4(features.baddbmm_(weights.mT, _values(back, tokens)))
        seen = _look(self._final, tokens + given, features, image.position_keys[-1])
        tokens = self._decoder.transformer.layer_norm_final_attn(tokens + seen)
        return _Decoded(tokens, features)

    # Masks ----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    @full_precision()
    def _draw(self, image: ImageSide, decoded: _Decoded, keep: Keep) -> SelectedMasks:
        quality = self._quality(decoded)[:, 1:]
        kept = keep(quality.float())
        # The first mask token is that of the single mask.
        return SelectedMasks(self._draw_tokens(image, decoded, F.pad(kept, (1, 0))), quality[kept])

    def _quality(self, decoded: _Decoded) -> Float[Tensor, "N M"]:
        with torch.inference_mode(), full_precision():
            return cast(Tensor, self._decoder.iou_prediction_head(decoded.tokens[:, 1]))

    @torch.inference_mode()
    @full_precision()
    def _draw_tokens(self, image: ImageSide, decoded: _Decoded, kept: Bool[Tensor, "N M"]) -> Float[Tensor, "K Hm Wm"]:
        """Draw the masks of the tokens that are kept, upscaling the features of a prompt once."""
        networks = enumerate(self._decoder.output_hypernetworks_mlps)
        filters = torch.stack([network(decoded.tokens[:, 2 + index]) for index, network in networks], dim=1)
        height, width = image.size
        drawn = decoded.features.new_empty((int(kept.sum()), 4 * height, 4 * width))
        start = 0
        for features, own, wanted in zip(decoded.features, filters, kept, strict=True):
            chosen = own[wanted]
            if len(chosen):
                flat = self._upscale(image, features) @ chosen.T
                masks = flat.view(height, width, 2, 2, 2, 2, len(chosen)).permute(6, 0, 2, 4, 1, 3, 5)
                drawn[start : start + len(chosen)] = masks.reshape(len(chosen), 4 * height, 4 * width)
                start += len(chosen)
        return drawn

    def _upscale(self, image: ImageSide, features: Float[Tensor, "L C"]) -> Float[Tensor, "16L C4"]:
        """Run the two transposed convolutions, whose windows do not overlap, as matrix products."""
        decoder = self._decoder
        upscaled = (features @ _as_matrix(decoder.upscale_conv1)).view(image.stride8.shape)
        norm = decoder.upscale_layer_norm
        upscaled = F.layer_norm(upscaled.add_(image.stride8), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        upscaled = (F.gelu(upscaled) @ _as_matrix(decoder.upscale_conv2)).view(image.stride4.shape)
        return F.gelu(upscaled.add_(image.stride4))


def _heads(attention: Any, projected: Float[Tensor, "*N T I"]) -> Float[Tensor, "*N H T d"]:
    """Split the last axis by heads."""
    return torch.unflatten(projected, -1, (attention.num_attention_heads, -1)).transpose(-3, -2)


def _by_channel(attention: Any, projected: Float[Tensor, "L I"]) -> Float[Tensor, "H d L"]:
    return _heads(attention, projected).mT.contiguous()


def _among(attention: Any, asking: Float[Tensor, "N T C"], values: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
    """Let tokens look at each other."""
    return cast(Tensor, attention(asking[None], asking[None], values[None])[0][0])


def _shared_product(tokens: Float[Tensor, "N H T d"], image: Float[Tensor, "H d L"]) -> Float[Tensor, "N HT L"]:
    """Multiply each prompt's tokens with the same image, head by head, without repeating the image."""
    count, heads, length, _ = tokens.shape
    product = tokens.new_empty((count, heads, length, image.shape[2]))
    for own, result in zip(tokens, product, strict=True):
        torch.bmm(own, image, out=result)
    return product.flatten(1, 2)


def _over_tokens(scores: Float[Tensor, "N HT L"], length: int) -> Float[Tensor, "N HT L"]:
    """Take the softmax of each head's scores over the tokens."""
    return torch.softmax(torch.unflatten(scores, 1, (-1, length)), dim=2).flatten(1, 2)


def _fold(tokens: Float[Tensor, "N H T d"], weight: Float[Tensor, "I C"]) -> Float[Tensor, "N HT C"]:
    """Take each head's tokens back through a projection of the image, instead of the image through it."""
    by_head = torch.unflatten(weight, 0, (tokens.shape[1], -1))
    return torch.einsum("nhtd,hdc->nhtc", tokens, by_head).flatten(1, 2)


def _values(attention: Any, tokens: Float[Tensor, "N T C"]) -> Float[Tensor, "N HT C"]:
    """Return the tokens' values, each head's already through the output projection, with its share of the bias."""
    values = _heads(attention, attention.v_proj(tokens))
    # A head's weights sum to 1, so that the shares of the bias come together.
    shares: Tensor = attention.o_proj.bias / attention.num_attention_heads
    return _fold(values, attention.o_proj.weight.T) + shares


def _look(
    attention: Any,
    asking: Float[Tensor, "N T C"],
    features: Float[Tensor, "N L C"],
    position_keys: Float[Tensor, "H d L"],
) -> Float[Tensor, "N T C"]:
    """Let tokens look at image features of their own, which are not projected."""
    queries = _heads(attention, attention.q_proj(asking) * attention.scaling)
    scores = _shared_product(queries, position_keys)
    scores.baddbmm_(_fold(queries, attention.k_proj.weight), features.mT)
    seen = torch.unflatten(torch.bmm(torch.softmax(scores, dim=-1), features), 1, queries.shape[1:3])
    by_head = torch.unflatten(attention.v_proj.weight, 0, (attention.num_attention_heads, -1))
    mixed = torch.einsum("nhtc,hdc->nthd", seen, by_head).flatten(2) + attention.v_proj.bias
    return cast(Tensor, attention.o_proj(mixed))


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
