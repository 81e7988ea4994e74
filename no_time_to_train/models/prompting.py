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
from no_time_to_train.models.folded_attention import (
    among,
    by_channel,
    exponentials,
    fold,
    heads,
    look,
    over_tokens,
    shared_product,
    values,
)
from no_time_to_train.models.sam2_types import ImageEmbedding, Prompts, SelectedMasks

# Prompts whose image features, 4 MB each at 64 x 64 x 256, exist at a time: few stay in the cache, many fill a GPU.
_AT_ONCE = {"cpu": 4, "cuda": 64}

Keep = Callable[[Float[Tensor, "N K"]], Bool[Tensor, "N K"]]


class ImageSide(NamedTuple):
    """What is computed once per image: L = h * w positions row by row, C channels, H heads of width d.

    Attributes:
        size: h and w.
        features: With the embedding of "no mask" added, less each position's mean: a layer norm follows.
        keys: For the first layer's tokens to look at.
        values: Likewise.
        queries: By which the image looks at the first layer's tokens, scaled.
        position_keys: The positions' share of the keys of each later attention of tokens to the image.
        position_queries: The positions' share of the queries of each later attention of the image to tokens, scaled.
        stride8: High-resolution features and the bias of the convolution that they are added to, positions in the
            order in which that convolution, as a matrix product, gives them: four to each of L; less their means.
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
    """Prompts after the transformer: the token of the predicted IoU, those of the masks, and the image's features."""

    tokens: Float[Tensor, "N M1 C"]
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
            features=_centred(features).contiguous(),
            keys=by_channel(towards, towards.k_proj(features + positions)),
            values=heads(towards, towards.v_proj(features)).contiguous(),
            queries=by_channel(back, back.q_proj(features + positions) * back.scaling),
            # A bias of keys is the same for all positions, which softmax does not see.
            position_keys=tuple(
                by_channel(attention, F.linear(positions, attention.k_proj.weight))
                for attention in (*(layer.cross_attn_token_to_image for layer in later), self._final)
            ),
            position_queries=tuple(
                by_channel(attention, attention.q_proj(positions) * attention.scaling)
                for attention in (layer.cross_attn_image_to_token for layer in later)
            ),
            stride8=_centred(_nested(stride8, 1) + self._decoder.upscale_conv1.bias),
            stride4=_nested(stride4, 2) + self._decoder.upscale_conv2.bias,
        )

    def selected(
        self, image: ImageSide, prompts: Prompts, keep: Keep, *, batch_size: int = 64
    ) -> Iterator[SelectedMasks]:
        """Decode prompts and draw those of each one's three masks that are wanted, a few prompts at a time.

        Args:
            image: From `prepare`.
            prompts: On the model's device, in pixels of its input.
            keep: Tells from the predicted IoU of the three masks of N prompts, (N, 3), which to draw.
            batch_size: Prompts that go through the part of the decoder together in which they share the image.

        Yields:
            The masks of the first prompt, then those of the second, and so on.
        """
        for decoded, workspace in self._decode(image, prompts, batch_size):
            with torch.inference_mode(), full_precision():
                quality = self._quality(decoded)[:, 1:]
                kept = keep(quality.float())
                # The first mask token is that of the single mask.
                masks = self._draw(image, decoded, F.pad(kept, (1, 0)), workspace)
            yield SelectedMasks(masks.float(), quality[kept].float())

    def single(self, image: ImageSide, prompts: Prompts, *, batch_size: int = 64) -> Iterator[SelectedMasks]:
        """Decode prompts into one mask each: Meta's single mask, or the best of three where that one is unstable.

        Arguments as of `selected`.
        """
        for decoded, workspace in self._decode(image, prompts, batch_size):
            with torch.inference_mode(), full_precision():
                quality = self._quality(decoded)
                masks = self._draw(image, decoded, torch.ones_like(quality, dtype=torch.bool), workspace)
                masks = torch.unflatten(masks, 0, quality.shape)
                if self._decoder.dynamic_multimask_via_stability:
                    chosen = self._decoder._dynamic_multimask_via_stability(masks[None], quality[None])
                    masks, quality = (part[0] for part in chosen)
            yield SelectedMasks(masks[:, 0].float(), quality[:, 0].float())

    # Parts of the model, whose types transformers does not say ----------------------------------------------------

    @property
    def _at_once(self) -> int:
        return _AT_ONCE.get(self._decoder.iou_token.weight.device.type, 4)

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

    def _decode(self, image: ImageSide, prompts: Prompts, batch_size: int) -> Iterator[tuple[_Decoded, "_Workspace"]]:
        """Run the transformer, over a few prompts at a time."""
        workspace = _Workspace(image, min(self._at_once, len(prompts)), self._decoder)
        for batch in (prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)):
            with torch.inference_mode(), full_precision():
                given = self._tokens(batch)
                tokens = self._first_tokens(image, given)
            for few in zip(torch.split(given, self._at_once), torch.split(tokens, self._at_once), strict=True):
                with torch.inference_mode(), full_precision():
                    decoded = self._few(image, *few, workspace)
                yield decoded, workspace

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
        tokens = layer.layer_norm1(among(layer.self_attn, given, given))
        attention = layer.cross_attn_token_to_image
        queries = heads(attention, attention.q_proj(tokens + given) * attention.scaling)
        # A few prompts' scores at a time stay in the cache.
        seen = torch.cat([self._first_look(image, few) for few in torch.split(queries, self._at_once)])
        tokens = layer.layer_norm2(tokens + attention.o_proj(seen))
        return cast(Tensor, layer.layer_norm3(tokens + layer.mlp(tokens)))

    @staticmethod
    def _first_look(image: ImageSide, queries: Float[Tensor, "N H T d"]) -> Float[Tensor, "N T I"]:
        """Let tokens look at the image that they share, all prompts in one product."""
        weights = exponentials(torch.bmm(queries.transpose(0, 1).flatten(1, 2), image.keys), dim=-1)
        seen = torch.bmm(weights, image.values) / weights.sum(dim=-1, keepdim=True)
        return torch.unflatten(seen, 1, (len(queries), -1)).permute(1, 2, 0, 3).flatten(2)

    def _few(
        self, image: ImageSide, given: Float[Tensor, "N T C"], tokens: Float[Tensor, "N T C"], workspace: "_Workspace"
    ) -> _Decoded:
        """Run the rest of the transformer, in which every prompt has image features of its own."""
        first, *later = self._layers
        back = first.cross_attn_image_to_token
        keys = heads(back, back.k_proj(tokens + given))
        weights = over_tokens(shared_product(keys, image.queries), given.shape[1])
        features = workspace.features[: len(given)].copy_(image.features)
        # With centred values they stay centred, which is half of a norm.
        _scale(first.layer_norm4, features.baddbmm_(weights.mT, _centred(values(back, tokens))))
        for layer, position_keys, position_queries in zip(
            later, image.position_keys, image.position_queries, strict=False
        ):
            asking = tokens + given
            tokens = layer.layer_norm1(tokens + among(layer.self_attn, asking, tokens))
            seen = look(layer.cross_attn_token_to_image, tokens + given, features, position_keys)
            tokens = layer.layer_norm2(tokens + seen)
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            back = layer.cross_attn_image_to_token
            keys = heads(back, back.k_proj(tokens + given))
            scores = shared_product(keys, position_queries)
            scores.baddbmm_(fold(keys, back.q_proj.weight * back.scaling), features.mT)
            weights = over_tokens(scores, given.shape[1])
            features.baddbmm_(weights.mT, values(back, tokens))
            _scale(layer.layer_norm4, features.sub_(features.mean(dim=-1, keepdim=True)))
        # Of the tokens only those are asked for any more that tell of masks: after the object's, before the prompt's.
        asked = slice(1, 2 + self._decoder.num_mask_tokens)
        tokens, given = tokens[:, asked], given[:, asked]
        seen = look(self._final, tokens + given, features, image.position_keys[-1])
        return _Decoded(self._decoder.transformer.layer_norm_final_attn(tokens + seen), features)

    # Masks ----------------------------------------------------------------------------------------------------------

    def _quality(self, decoded: _Decoded) -> Float[Tensor, "N M"]:
        return cast(Tensor, self._decoder.iou_prediction_head(decoded.tokens[:, 0]))

    def _draw(
        self, image: ImageSide, decoded: _Decoded, kept: Bool[Tensor, "N M"], workspace: "_Workspace"
    ) -> Float[Tensor, "K Hm Wm"]:
        """Draw the masks of the tokens that are kept, upscaling the features of a prompt once."""
        networks = enumerate(self._decoder.output_hypernetworks_mlps)
        filters = torch.stack([network(decoded.tokens[:, 1 + index]) for index, network in networks], dim=1)
        height, width = image.size
        drawn = decoded.features.new_empty((int(kept.sum()), 4 * height, 4 * width))
        rows = iter(drawn.flatten(1))
        for features, own, wanted in zip(decoded.features, filters, kept, strict=True):
            chosen = own[wanted]
            if len(chosen):
                upscaled = self._upscale(image, features, workspace)
                for one in chosen:
                    torch.index_select(torch.mv(upscaled, one), 0, workspace.order, out=next(rows))
        return drawn

    def _upscale(
        self, image: ImageSide, features: Float[Tensor, "L C"], workspace: "_Workspace"
    ) -> Float[Tensor, "16L C4"]:
        """Run the two transposed convolutions, whose windows do not overlap, as matrix products."""
        decoder = self._decoder
        torch.mm(features, workspace.upscale1, out=workspace.stride8)
        upscaled = workspace.stride8.view(image.stride8.shape).add_(image.stride8)
        torch.mm(_gelu(_scale(decoder.upscale_layer_norm, upscaled)), workspace.upscale2, out=workspace.stride4)
        return _gelu(workspace.stride4.view(image.stride4.shape).add_(image.stride4))


class _Workspace:
    """Memory that is used again for each few prompts: fresh memory costs more than what is computed in it.

    Args:
        image: Whose sizes count.
        count: Prompts at a time.
        decoder: Whose transposed convolutions are wanted as matrices.
    """

    def __init__(self, image: ImageSide, count: int, decoder: Any) -> None:
        # A layer norm follows the first: its mean is taken out of the weights.
        self.upscale1 = _centred(torch.unflatten(_as_matrix(decoder.upscale_conv1), 1, (4, -1))).flatten(1)
        self.upscale2 = _as_matrix(decoder.upscale_conv2)
        empty, length = image.features.new_empty, len(image.features)
        self.features = empty(count, *image.features.shape)
        self.stride8 = empty(length, self.upscale1.shape[1])
        self.stride4 = empty(4 * length, self.upscale2.shape[1])
        pixels = torch.arange(16 * length, device=image.features.device).view(*image.size, 2, 2, 2, 2)
        # Where each pixel of a mask, row by row, lies among the upscaled.
        self.order = pixels.permute(0, 2, 4, 1, 3, 5).flatten()


def _centred(values: Tensor) -> Tensor:
    """Take the mean over the last axis away."""
    return values - values.mean(dim=-1, keepdim=True)


def _scale(norm: Any, centred: Tensor) -> Tensor:
    """Apply the rest of a layer norm over the last axis to values without a mean, in place."""
    variance = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square_().div_(centred.shape[-1])
    centred.mul_(variance.add_(norm.eps).rsqrt_())
    return torch.addcmul(norm.bias, centred, norm.weight, out=centred)


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
