"""SAM2's mask decoder in the order of computation of the code that the original runs, for results to the last bit.

`fast_decoder` computes the same by fewer products, which round otherwise: a pixel whose logit is nearly 0 changes sides
about once in three hundred masks, and the score of a small mask then changes by 1e-4 and more. On a CPU, in one thread,
what is computed here is bit for bit what the original computes.

N prompts of T tokens, C channels, L positions. Modules of transformers are taken as they are; it does not say their
types.

Source: the SAM2 of no-time-to-train at 214fc79, `sam2/modeling/sam/{transformer,mask_decoder}.py`.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Sam2Model

from no_time_to_train.matching.precision import full_precision
from no_time_to_train.proposers.base import Embedding, MaskProposals
from no_time_to_train.proposers.sam2.attention_ops import split_heads

# Most prompts that are decoded together: 8 MB each for the released models, a few times over.
_AT_ONCE = 16


@torch.inference_mode()
@full_precision()
def decode_as_original(
    model: Sam2Model, embedding: Embedding, points: Float[Tensor, "N 2"], *, min_iou: float
) -> MaskProposals:
    """Decode points, each a prompt of its own, and return the mask of highest predicted IoU of each.

    Args:
        model: Its prompt encoder and mask decoder are used.
        embedding: One image, on the model's device and in its type.
        points: x and y in pixels of the model's input.
        min_iou: Masks of this predicted IoU or less are left out.
    """
    positions = model.get_image_wide_positional_embeddings().flatten(2).mT
    side = embedding["stride4"].shape[-1]
    masks, quality = [points.new_zeros((0, side, side))], [points.new_zeros(0)]
    # In even parts: a part of one prompt would be multiplied by other routines, which round otherwise.
    for some in points.tensor_split(max(1, math.ceil(len(points) / _AT_ONCE))):
        labels: Any = torch.ones((1, len(some), 1), dtype=torch.int64, device=points.device)
        sparse, dense = model.get_prompt_embeddings(some[None, :, None], labels)
        found, predicted = _decode(model.mask_decoder, embedding, positions, sparse[0], dense)
        # The first is Meta's single mask.
        best, choice = predicted[:, 1:].max(dim=1)
        kept = best > min_iou
        masks.append(found[kept, 1 + choice[kept]])
        quality.append(best[kept])
    return MaskProposals(torch.cat(masks), torch.cat(quality))


def _decode(
    decoder: Any,
    embedding: Embedding,
    positions: Float[Tensor, "1 L C"],
    sparse: Float[Tensor, "N P C"],
    dense: Float[Tensor, "1 C Hf Wf"],
) -> tuple[Float[Tensor, "N K Hm Wm"], Float[Tensor, "N K"]]:
    """Return all masks of some prompts, and their predicted IoUs."""
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    given = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    features = (embedding["features"] + dense).expand(len(sparse), -1, -1, -1)
    tokens, image = given, features.flatten(2).mT
    for layer in decoder.transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = _attend(layer.self_attn, tokens, tokens, tokens)
        else:
            tokens = tokens + _attend(layer.self_attn, tokens + given, tokens + given, tokens)
        tokens = layer.layer_norm1(tokens)
        tokens = tokens + _attend(layer.cross_attn_token_to_image, tokens + given, image + positions, image)
        tokens = layer.layer_norm2(tokens)
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        image = image + _attend(layer.cross_attn_image_to_token, image + positions, tokens + given, tokens)
        image = layer.layer_norm4(image)
    attention = decoder.transformer.final_attn_token_to_image
    tokens = tokens + _attend(attention, tokens + given, image + positions, image)
    tokens = decoder.transformer.layer_norm_final_attn(tokens)

    stride4, stride8 = embedding["stride4"], embedding["stride8"]
    upscaled = decoder.upscale_conv1(torch.unflatten(image.mT, 2, features.shape[2:])) + stride8
    upscaled = decoder.activation(_norm_channels(decoder.upscale_layer_norm, upscaled))
    upscaled = decoder.activation(decoder.upscale_conv2(upscaled) + stride4)
    networks = enumerate(decoder.output_hypernetworks_mlps)
    filters = torch.stack([network(tokens[:, 2 + index]) for index, network in networks], dim=1)
    masks = torch.unflatten(filters @ upscaled.flatten(2), 2, upscaled.shape[2:])
    return masks, decoder.iou_prediction_head(tokens[:, 1])


def _attend(
    attention: Any, asking: Float[Tensor, "N Q C"], keys: Float[Tensor, "N K C"], values: Float[Tensor, "N K C"]
) -> Float[Tensor, "N Q C"]:
    """Attend with each of queries and keys scaled by the root, as torch does without a fused kernel."""
    root = attention.scaling**0.5
    query = split_heads(attention, attention.q_proj(asking)) * root
    key = split_heads(attention, attention.k_proj(keys)) * root
    weights = (query @ key.mT).softmax(dim=-1)
    found: Tensor = attention.o_proj(
        (weights @ split_heads(attention, attention.v_proj(values))).transpose(1, 2).flatten(2)
    )
    return found


def _norm_channels(norm: Any, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Normalise over channels by separate means, as Meta's LayerNorm2d does."""
    centered = features - features.mean(dim=1, keepdim=True)
    scaled = centered / torch.sqrt(centered.pow(2).mean(dim=1, keepdim=True) + norm.eps)
    result: Tensor = norm.weight[:, None, None] * scaled + norm.bias[:, None, None]
    return result
