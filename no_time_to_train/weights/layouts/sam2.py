"""The names of SAM2's tensors: Meta's `.pt` files on the left, transformers' `Sam2Model` on the right.

The tables are literal. Only the indices of blocks and layers are counted out. What the image model does not need is
listed with its reason, and every other name is an error.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Literal

from no_time_to_train.configs.sam2 import HieraShape
from no_time_to_train.errors import KeyMismatchError, WeightsFormatError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, concat_rows

POSITION_BUFFERS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
"""One Gaussian matrix in Meta's files and two buffers in transformers, which must be equal."""

_GAUSSIAN = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_POINT_EMBEDDINGS = tuple(f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4))
_NUM_DECODER_LAYERS = 2
_NUM_MASK_TOKENS = 4
_NUM_NECK_LEVELS = 4

# Whole tensors whose last part says nothing.
_TENSORS = {
    "no_mem_embed": "no_memory_embedding",
    "image_encoder.trunk.pos_embed": "vision_encoder.backbone.pos_embed",
    "image_encoder.trunk.pos_embed_window": "vision_encoder.backbone.pos_embed_window",
}
# Modules with a weight only.
_EMBEDDINGS = {
    "sam_prompt_encoder.not_a_point_embed": "prompt_encoder.not_a_point_embed",
    "sam_prompt_encoder.no_mask_embed": "prompt_encoder.no_mask_embed",
    "sam_mask_decoder.iou_token": "mask_decoder.iou_token",
    "sam_mask_decoder.mask_tokens": "mask_decoder.mask_tokens",
    "sam_mask_decoder.obj_score_token": "mask_decoder.obj_score_token",
}
# Modules with a weight and a bias.
_MODULES = {
    "image_encoder.trunk.patch_embed.proj": "vision_encoder.backbone.patch_embed.projection",
    "sam_prompt_encoder.mask_downscaling.0": "prompt_encoder.mask_embed.conv1",
    "sam_prompt_encoder.mask_downscaling.1": "prompt_encoder.mask_embed.layer_norm1",
    "sam_prompt_encoder.mask_downscaling.3": "prompt_encoder.mask_embed.conv2",
    "sam_prompt_encoder.mask_downscaling.4": "prompt_encoder.mask_embed.layer_norm2",
    "sam_prompt_encoder.mask_downscaling.6": "prompt_encoder.mask_embed.conv3",
    "sam_mask_decoder.transformer.norm_final_attn": "mask_decoder.transformer.layer_norm_final_attn",
    "sam_mask_decoder.output_upscaling.0": "mask_decoder.upscale_conv1",
    "sam_mask_decoder.output_upscaling.1": "mask_decoder.upscale_layer_norm",
    "sam_mask_decoder.output_upscaling.3": "mask_decoder.upscale_conv2",
    "sam_mask_decoder.conv_s0": "mask_decoder.conv_s0",
    "sam_mask_decoder.conv_s1": "mask_decoder.conv_s1",
}
_HIERA_BLOCK = {
    "norm1": "layer_norm1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "layer_norm2",
    "mlp.layers.0": "mlp.proj_in",
    "mlp.layers.1": "mlp.proj_out",
    "proj": "proj",
}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"}
_DECODER_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "norm3": "layer_norm3",
    "norm4": "layer_norm4",
    "mlp.layers.0": "mlp.proj_in",
    "mlp.layers.1": "mlp.proj_out",
}
_DECODER_ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
_THREE_LAYER_MLP = {"layers.0": "proj_in", "layers.1": "layers.0", "layers.2": "proj_out"}
_MLPS = ("iou_prediction_head", "pred_obj_score_head")

META_VIDEO_ONLY: Mapping[str, str] = MappingProxyType(
    {
        "memory_attention.": "attends to earlier frames",
        "memory_encoder.": "encodes a frame's masks for later frames",
        "mask_downsample.": "turns mask prompts into object pointers",
        "obj_ptr_proj.": "makes object pointers for later frames",
        "obj_ptr_tpos_proj.": "places object pointers in time (SAM 2.1)",
        "maskmem_tpos_enc": "places memories in time",
        "no_mem_pos_enc": "places the empty memory, which a single image adds without position",
        "no_obj_ptr": "object pointer of an absent object",
        "no_obj_embed_spatial": "memory of an absent object (SAM 2.1)",
    }
)
"""Parts of Meta's files that are dropped on purpose (by first part of the name), and what they are for."""

TRANSFORMERS_VIDEO_ONLY: Mapping[str, str] = MappingProxyType(
    {
        "memory_attention.": "attends to earlier frames",
        "memory_encoder.": "encodes a frame's masks for later frames",
        "mask_downsample.": "turns mask prompts into object pointers",
        "object_pointer_proj.": "makes object pointers for later frames",
        "temporal_positional_encoding_projection_layer.": "places object pointers in time (SAM 2.1)",
        "memory_temporal_positional_encoding": "places memories in time",
        "no_memory_positional_encoding": "places the empty memory, which a single image adds without position",
        "no_object_pointer": "object pointer of an absent object",
        "occlusion_spatial_embedding_parameter": "memory of an absent object (SAM 2.1)",
    }
)
"""The same for folders of transformers' `Sam2VideoModel`, which the Hub's SAM2 folders are."""


def sam2_layout(tensors: Iterable[str], *, source: str) -> Literal["meta", "transformers"]:
    """Tell the layout of a SAM2 file from the names in it.

    Raises:
        WeightsFormatError: The names are neither layout's.
    """
    names = set(tensors)
    if "image_encoder.trunk.patch_embed.proj.weight" in names:
        return "meta"
    if "vision_encoder.backbone.patch_embed.projection.weight" in names:
        return "transformers"
    raise WeightsFormatError(
        f"{source} is not a SAM2 file: expected the tensors of Meta's or transformers' SAM2, it holds "
        + ", ".join(sorted(names)[:3]),
        remedy="name a SAM2 checkpoint, such as sam2_hiera_large.pt or sam2.1_hiera_large.pt",
    )


def meta_sam2_to_transformers(
    tensors: Mapping[str, StoredTensor], *, source: str = "the checkpoint"
) -> dict[str, StoredTensor]:
    """Rename the tensors of Meta's SAM 2 or SAM 2.1 to those of transformers' `Sam2Model`.

    Args:
        tensors: State dict of Meta's image or video model, without the outer ``model`` key.
        source: The file's name, for messages.

    Returns:
        The image model's tensors, uncopied but for the four point embeddings, which become one of shape (4, D). The
        Gaussian matrix of the positions appears under both of `POSITION_BUFFERS`. What the file lacks is missing here.

    Raises:
        KeyMismatchError: The file holds names that SAM2 does not have, or some of the four point embeddings only.

    Source: facebookresearch/sam2, `sam2/modeling`, as in the PyPI package sam2 1.1.0.
    """
    table = meta_key_map(_num_blocks(tensors))
    renamed: dict[str, StoredTensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if name in table:
            renamed[table[name]] = tensor
        elif name == _GAUSSIAN:
            renamed.update(dict.fromkeys(POSITION_BUFFERS, tensor))
        elif name not in _POINT_EMBEDDINGS and not _starts_with(name, META_VIDEO_ONLY):
            unknown.append(name)
    absent = [name for name in _POINT_EMBEDDINGS if name not in tensors]
    if not absent:
        renamed["prompt_encoder.point_embed.weight"] = concat_rows([tensors[name] for name in _POINT_EMBEDDINGS])
    elif len(absent) < len(_POINT_EMBEDDINGS):
        raise KeyMismatchError(
            f"{source} holds a part of the four point embeddings, it lacks {', '.join(absent)}",
            remedy="fetch the file again, or save the whole state_dict()",
        )
    if unknown:
        raise KeyMismatchError(
            f"{len(unknown)} tensors of {source} are not SAM2's: {first_of(sorted(unknown))}",
            remedy="name a SAM 2 or SAM 2.1 checkpoint of Meta's, without further modules",
        )
    return renamed


def image_part_of_transformers(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Take the image model's tensors out of a transformers `Sam2Model` or `Sam2VideoModel` state dict.

    Args:
        tensors: State dict by transformers' names. Where one of `POSITION_BUFFERS` is missing the other serves.

    Returns:
        The tensors without those of `TRANSFORMERS_VIDEO_ONLY`; other names are left for the strict loader to refuse.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _starts_with(name, TRANSFORMERS_VIDEO_ONLY)}
    image, prompt = POSITION_BUFFERS
    for name, twin in ((image, prompt), (prompt, image)):
        if name not in kept and twin in kept:
            kept[name] = kept[twin]
    return kept


def video_only(names: Iterable[str]) -> dict[str, str]:
    """Return those of the names that only video needs, each with the reason why it is left out."""
    tables = {**META_VIDEO_ONLY, **TRANSFORMERS_VIDEO_ONLY}
    found = (
        (name, next((why for part, why in tables.items() if _starts_with(name, {part: why})), None)) for name in names
    )
    return {name: reason for name, reason in found if reason is not None}


def hiera_shape(tensors: Mapping[str, StoredTensor]) -> HieraShape | None:
    """Read the image encoder's architecture from tensors by transformers' names, or None where they do not say it."""
    prefix = "vision_encoder.backbone."
    try:
        background = tensors[f"{prefix}pos_embed"].shape
        window = tensors[f"{prefix}pos_embed_window"].shape
        shapes: list[tuple[int, ...]] = []
        while (name := f"{prefix}blocks.{len(shapes)}.attn.proj.weight") in tensors:
            shapes.append(tensors[name].shape)
        return HieraShape(
            embed_dim=background[1],
            stages=tuple(len(list(blocks)) for _, blocks in groupby(shapes)),
            background_size=tuple(background[2:]),
            window_size=window[2],
        )
    except (KeyError, IndexError):
        return None


def meta_key_map(num_blocks: int) -> dict[str, str]:
    """Write out the one-to-one part of the map: Meta's names to transformers', for `num_blocks` Hiera blocks."""
    modules = dict(_MODULES)
    for i in range(num_blocks):
        ours, theirs = f"image_encoder.trunk.blocks.{i}", f"vision_encoder.backbone.blocks.{i}"
        modules |= {f"{ours}.{name}": f"{theirs}.{new}" for name, new in _HIERA_BLOCK.items()}
    for i in range(_NUM_NECK_LEVELS):  # coarse to fine in both
        modules[f"image_encoder.neck.convs.{i}.conv"] = f"vision_encoder.neck.convs.{i}"
    attentions = ["transformer.final_attn_token_to_image"]
    for i in range(_NUM_DECODER_LAYERS):
        layer = f"transformer.layers.{i}"
        attentions += [f"{layer}.{name}" for name in _DECODER_ATTENTIONS]
        modules |= {
            f"sam_mask_decoder.{layer}.{name}": f"mask_decoder.{layer}.{new}" for name, new in _DECODER_LAYER.items()
        }
    for attention in attentions:
        modules |= {
            f"sam_mask_decoder.{attention}.{name}": f"mask_decoder.{attention}.{new}"
            for name, new in _ATTENTION.items()
        }
    for mlp in (*_MLPS, *(f"output_hypernetworks_mlps.{i}" for i in range(_NUM_MASK_TOKENS))):
        modules |= {
            f"sam_mask_decoder.{mlp}.{name}": f"mask_decoder.{mlp}.{new}" for name, new in _THREE_LAYER_MLP.items()
        }
    table = dict(_TENSORS)
    table |= {f"{name}.weight": f"{new}.weight" for name, new in (_EMBEDDINGS | modules).items()}
    table |= {f"{name}.bias": f"{new}.bias" for name, new in modules.items()}
    return table


def _num_blocks(names: Iterable[str]) -> int:
    matches = (re.fullmatch(r"image_encoder\.trunk\.blocks\.(\d+)\.norm1\.weight", name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _starts_with(name: str, table: Mapping[str, str]) -> bool:
    """Return whether a name is one of the table's, or lies in a module of the table's (these end in a dot)."""
    return any(name == key or (key.endswith(".") and name.startswith(key)) for key in table)
