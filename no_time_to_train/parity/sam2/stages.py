"""The stages that SAM2 goes through, as torch computes them.

Those of the image encoder have the names of a ViT's: `embedding`, then in every block `input`, `attn_in` (after the
norm), `attn_raw` (attention over windows), `post_attn` (the sum), `mlp_in`, `mlp_raw` and `output`; values are
(B, h, w, D). Where a block changes the width, the sum is with the projected `attn_in` instead of the input. The neck
follows by its levels (B, h, w, C), and the decoder by what it gives for the prompts.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Sam2Model
from transformers.models.sam2 import modeling_sam2

from no_time_to_train.parity.sam2.prompts import ParityPrompts
from no_time_to_train.parity.stages import DECODED, EMBEDDING, NECK, PIXEL_VALUES, HookPoint, Stage

# Its functions and modules are not typed.
_SAM2: Any = modeling_sam2
Decoded = tuple[Float[Tensor, "B N K"], Float[Tensor, "B H W NK"], Float[Tensor, "B N"]]


def sam2_stages(model: Sam2Model, prompts: ParityPrompts) -> list[Stage]:
    """List the stages of a model in their order; `input`, which is another's output, is left out.

    Args:
        model: In float32, in evaluation mode; left as it is.
        prompts: To decode on every image.
    """
    parts: Any = model
    backbone = parts.vision_encoder.backbone
    first = HookPoint(backbone.blocks[0], "in")
    stages, before = [Stage(EMBEDDING, (PIXEL_VALUES,), _Embedding(backbone), _call, first)], EMBEDDING
    for index, block in enumerate(backbone.blocks):
        stages += _block_stages(block, f"blocks.{index}.{{}}".format, before)
        before = stages[-1].name
    ends = tuple(f"blocks.{end}.output" for end in backbone.stage_ends)
    for level, name in enumerate(NECK):
        stages.append(Stage(name, ends[level:], _NeckLevel(parts, level), _call, None))
    decoder = without_image_encoder(model)
    for index, name in enumerate(DECODED):
        compute = partial(_decoded, index, prompts)
        stages.append(Stage(name, NECK, decoder, compute, None, full_precision=True))
    return stages


def _block_stages(block: Any, at: Callable[[str], str], before: str) -> list[Stage]:
    widened = block.dim != block.dim_out
    projection = _Shortcut(block) if widened else None
    return [
        Stage(at("attn_in"), (before,), block.layer_norm1, _call, HookPoint(block.layer_norm1)),
        Stage(at("attn_raw"), (at("attn_in"),), block.attn, partial(_attend, block.window_size), None),
        Stage(
            at("post_attn"),
            (at("attn_in") if widened else before, at("attn_raw")),
            projection,
            _add,
            HookPoint(block.layer_norm2, "in"),
        ),
        Stage(at("mlp_in"), (at("post_attn"),), block.layer_norm2, _call, HookPoint(block.layer_norm2)),
        Stage(at("mlp_raw"), (at("mlp_in"),), block.mlp, _call, HookPoint(block.mlp)),
        Stage(at("output"), (at("post_attn"), at("mlp_raw")), None, _add, HookPoint(block)),
    ]


def without_image_encoder(model: Sam2Model) -> Sam2Model:
    """Return a model that shares all modules but the image encoder, which prompts do not need, to be copied."""
    decoder = copy.copy(model)
    decoder._modules = {name: part for name, part in model._modules.items() if name != "vision_encoder"}
    return decoder


def decode(model: Any, embeddings: Sequence[Float[Tensor, "B _h _w _C"]], prompts: ParityPrompts) -> Decoded:
    """Decode prompts on every image of a batch, points first, then boxes.

    Args:
        model: transformers' `Sam2Model`, with an image encoder or without.
        embeddings: At strides 4, 8 and 16, channels last.
        prompts: The same for every image.

    Returns:
        Three predicted IoUs for each prompt, their mask logits as channels, and the object score.
    """
    count, dtype, device = len(embeddings[0]), embeddings[0].dtype, embeddings[0].device
    maps = [level.permute(0, 3, 1, 2) for level in embeddings]

    def repeated(values: Any) -> Tensor:
        given = torch.from_numpy(values).to(device)
        given = given.to(dtype) if given.is_floating_point() else given
        return given[None].repeat(count, *(1,) * given.ndim)

    by_points = model(
        image_embeddings=maps, input_points=repeated(prompts.points), input_labels=repeated(prompts.labels)
    )
    by_boxes = model(image_embeddings=maps, input_boxes=repeated(prompts.boxes))
    iou, masks, score = (
        torch.cat([by_points[name], by_boxes[name]], dim=1)
        for name in ("iou_scores", "pred_masks", "object_score_logits")
    )
    return iou, masks.flatten(1, 2).permute(0, 2, 3, 1), score[..., 0]


def _decoded(index: int, prompts: ParityPrompts, model: nn.Module, *embeddings: Tensor) -> Tensor:
    return decode(model, embeddings, prompts)[index]


class _Embedding(nn.Module):
    """Patches and their positions."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.patch_embed = backbone.patch_embed
        self.pos_embed = backbone.pos_embed
        self.pos_embed_window = backbone.pos_embed_window

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens: Tensor = self.patch_embed(pixel_values)
        coarse = F.interpolate(self.pos_embed, size=tokens.shape[1:3], mode="bicubic")
        window: Tensor = self.pos_embed_window
        repeated = window.tile([whole // part for whole, part in zip(coarse.shape, window.shape, strict=True)])
        return tokens + (coarse + repeated).permute(0, 2, 3, 1)


class _Shortcut(nn.Module):
    """What a block adds attention to where it changes the width."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.proj = block.proj
        self.query_stride = block.query_stride

    def forward(self, normed: Tensor) -> Tensor:
        pooled: Tensor = _SAM2.do_pool(self.proj(normed), self.query_stride)
        return pooled


class _NeckLevel(nn.Module):
    """One level of the neck from the Hiera's stages of its size and smaller, as the decoder takes it."""

    def __init__(self, model: Any, level: int) -> None:
        super().__init__()
        neck, decoder = model.vision_encoder.neck, model.mask_decoder
        last = len(neck.convs) - 1
        self.top_down = [top in neck.fpn_top_down_levels for top in range(level, last)]
        self.convs = nn.ModuleList(neck.convs[last - top] for top in range(level, last + 1))
        self.last = (decoder.conv_s0, decoder.conv_s1, None)[level]
        self.no_memory = None if self.last is not None else model.no_memory_embedding

    def forward(self, *stages: Tensor) -> Tensor:
        *finer, coarsest = (conv(stage.permute(0, 3, 1, 2)) for conv, stage in zip(self.convs, stages, strict=True))
        found: Tensor = coarsest
        for lateral, added in zip(reversed(finer), reversed(self.top_down), strict=True):
            # transformers doubles in float32 whatever the rest is in.
            found = lateral + F.interpolate(found, scale_factor=2.0, mode="nearest") if added else lateral
        found = found if self.last is None else self.last(found)
        found = found.permute(0, 2, 3, 1)
        return found if self.no_memory is None else found + self.no_memory


def _attend(window: int, attention: nn.Module, normed: Tensor) -> Tensor:
    if not window:
        whole: Tensor = attention(normed)
        return whole
    height, width = normed.shape[1:3]
    windows, padded = _SAM2.window_partition(normed, window)
    attended = attention(windows)
    # Pooled queries leave fewer rows and columns of a window.
    shrunk = window // attended.shape[1]
    size, within = ((rows // shrunk, columns // shrunk) for rows, columns in ((height, width), padded))
    joined: Tensor = _SAM2.window_unpartition(attended, window // shrunk, within, size)
    return joined


def _call(module: nn.Module, *values: Tensor) -> Tensor:
    result: Tensor = module(*values)
    return result


def _add(module: nn.Module | None, stream: Tensor, branch: Tensor) -> Tensor:
    return (stream if module is None else module(stream)) + branch
