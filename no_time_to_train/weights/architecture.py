"""Architectures: read from tensors, never from a file's name, and the tensors that each has."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, Architecture, EncoderSpec
from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN
from no_time_to_train.weights.formats.stored_tensor import StoredTensor
from no_time_to_train.weights.layouts.base import Layout

Shapes = dict[str, tuple[int, ...]]

# The mask token serves pre-training only: files without it are whole.
OPTIONAL = ("embeddings.mask_token",)


def read_architecture(
    tensors: Mapping[str, StoredTensor],
    layout: Layout,
    source: str,
    *,
    rope_periods: StoredTensor | None = None,
    untied_norm: bool = False,
) -> Architecture:
    """Read the architecture from the shapes of an encoder's tensors.

    Args:
        tensors: By transformers' names; shapes are enough.
        layout: The layout in which they were found.
        source: The file's name, for messages.
        rope_periods: Stored RoPE periods: a quarter of the head width of them, so that they tell the heads.
        untied_norm: Whether the file carried the norm of local crops.

    Raises:
        WeightsFormatError: A tensor that tells the architecture is missing.
    """
    try:
        if layout.family == "dinov3_convnext":
            return _convnext(tensors)
        return _vit(tensors, layout, rope_periods, untied_norm=untied_norm)
    except KeyError as error:
        raise WeightsFormatError(
            f"{source} lacks {error.args[0]}, without which its architecture cannot be told",
            remedy="fetch the file again, it may be incomplete",
        ) from error
    except ValueError as error:
        raise WeightsFormatError(f"{source} is damaged: {error}", remedy="fetch the file again") from error
    except (IndexError, ZeroDivisionError) as error:
        raise WeightsFormatError(
            f"{source} holds tensors of shapes that no encoder has", remedy="fetch the file again"
        ) from error


def matches(entry: EncoderSpec, architecture: Architecture) -> bool:
    """Return whether tensors of this architecture are those of a registry entry."""
    ffn_fits = entry.ffn_from_checkpoint or (entry.ffn, entry.ffn_dim) == (architecture.ffn, architecture.ffn_dim)
    return (
        entry.family == architecture.family
        and entry.embed_dim == architecture.embed_dim
        and entry.depth == architecture.depth
        and entry.stage_depths == architecture.stage_depths
        and entry.stage_dims == architecture.stage_dims
        and entry.num_storage_tokens == architecture.num_storage_tokens
        and entry.patch_size == architecture.patch_size
        # timm leaves out biases that are zero.
        and (entry.query_bias or not architecture.query_bias)
        and architecture.num_heads in (None, entry.num_heads)
        and ffn_fits
    )


def candidate_encoders(architecture: Architecture) -> list[EncoderSpec]:
    """Return the registry entries that tensors of this architecture can be, the likeliest first.

    Of the entries that share an architecture, Meta's satellite ViT-L alone carries the norm of local crops.
    """
    fitting = [entry for entry in ENCODER_CONFIGS.values() if matches(entry, architecture)]
    satellite = architecture.untied_norm and architecture.embed_dim == 1024
    return fitting[::-1] if satellite else fitting


def describe_architecture(architecture: Architecture) -> str:
    """Describe an architecture in a few words, for messages.

    Examples:
        >>> describe_architecture(ENCODER_CONFIGS["dinov3_small"])
        'dinov3_vit, width 384, depth 12, mlp 1536, patch 16, 4 storage tokens'
    """
    if architecture.family == "dinov3_convnext":
        return f"{architecture.family}, widths {architecture.stage_dims}, depths {architecture.stage_depths}"
    return (
        f"{architecture.family}, width {architecture.embed_dim}, depth {architecture.depth}, "
        f"{architecture.ffn} {architecture.ffn_dim}, patch {architecture.patch_size}, "
        f"{architecture.num_storage_tokens} storage tokens"
    )


def _vit(
    tensors: Mapping[str, StoredTensor], layout: Layout, rope_periods: StoredTensor | None, *, untied_norm: bool
) -> Architecture:
    dinov2 = layout.family == "dinov2"
    blocks = "encoder.layer" if dinov2 else "model.layer"
    patch = tensors["embeddings.patch_embeddings.projection.weight" if dinov2 else "embeddings.patch_embeddings.weight"]
    embed_dim = patch.shape[0]
    gated = f"{blocks}.0.mlp.gate_proj.weight" in tensors
    first_ffn = f"{blocks}.0.mlp.{'fc1' if dinov2 and not gated else 'up_proj'}.weight"
    registers = tensors.get("embeddings.register_tokens")
    positions = tensors.get("embeddings.position_embeddings")
    quarter_head = 0 if rope_periods is None else math.prod(rope_periods.shape)
    if rope_periods is not None and (not quarter_head or embed_dim % (4 * quarter_head)):
        raise ValueError(
            f"it has {quarter_head} RoPE periods, expected a quarter of the width of an attention head, "
            f"by which its width of {embed_dim} can be divided"
        )
    return Architecture(
        family=layout.family,
        embed_dim=embed_dim,
        depth=_count(tensors, rf"{re.escape(blocks)}\.(\d+)\."),
        num_heads=None if rope_periods is None else embed_dim // (4 * quarter_head),
        ffn="swiglu" if gated else "mlp",
        ffn_dim=tensors[first_ffn].shape[0],
        patch_size=patch.shape[-1],
        num_storage_tokens=0 if registers is None else registers.shape[1],
        query_bias=f"{blocks}.0.attention.q_proj.bias" in tensors,
        key_bias=f"{blocks}.0.attention.k_proj.bias" in tensors,
        num_positions=0 if positions is None else positions.shape[1],
        untied_norm=untied_norm,
    )


def _convnext(tensors: Mapping[str, StoredTensor]) -> Architecture:
    stages = _count(tensors, r"model\.stages\.(\d+)\.")
    depths = tuple(_count(tensors, rf"model\.stages\.{stage}\.layers\.(\d+)\.") for stage in range(stages))
    dims = tuple(tensors[f"model.stages.{stage}.layers.0.gamma"].shape[0] for stage in range(stages))
    return Architecture(
        family="dinov3_convnext",
        embed_dim=dims[-1],
        depth=sum(depths),
        patch_size=4 * 2 ** (stages - 1),
        stage_depths=depths,
        stage_dims=dims,
    )


def _count(names: Mapping[str, StoredTensor], pattern: str) -> int:
    """Count the blocks whose names match, by the highest index.

    Raises:
        ValueError: It is higher than there are tensors: what is done for each block would take all time and memory.
    """
    highest = max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)
    if highest >= len(names):
        raise ValueError(f"its blocks are numbered up to {highest}, and it holds only {len(names)} tensors")
    return 1 + highest


def shapes_of(architecture: Architecture) -> Shapes:
    """Return the shapes of an encoder's tensors, by the names of transformers' current models.

    Args:
        architecture: As `read_architecture` gives it, or of a registry entry.
    """
    if architecture.family == "dinov3_convnext":
        return _convnext_shapes(architecture)
    return _dinov2_shapes(architecture) if architecture.family == "dinov2" else _dinov3_vit_shapes(architecture)


def check_complete(tensors: Mapping[str, StoredTensor], architecture: Architecture, source: str) -> None:
    """Refuse a file that lacks tensors of its architecture, or has some of another shape.

    Args:
        tensors: By transformers' names; shapes are enough.
        architecture: As it was read from them.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors are missing, or there are others.
        ShapeMismatchError: A tensor has another shape.
    """
    expected = shapes_of(architecture)
    missing = sorted(expected.keys() - tensors.keys() - set(OPTIONAL))
    if missing:
        raise KeyMismatchError(
            f"{source} is incomplete: {len(missing)} tensors are missing: {first_of(missing)}",
            remedy=FETCH_AGAIN,
        )
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise KeyMismatchError(
            f"{len(unexpected)} tensors of {source} are not of its architecture: {first_of(unexpected)}",
            remedy="check that the file holds the encoder alone",
        )
    wrong = wrong_shapes(tensors, expected)
    if wrong:
        raise ShapeMismatchError(
            f"{len(wrong)} tensors of {source} do not fit its architecture: {first_of(wrong)}",
            remedy=FETCH_AGAIN,
        )


def wrong_shapes(tensors: Mapping[str, Any], expected: Mapping[str, Sequence[int]]) -> list[str]:
    """Return a phrase about each tensor whose shape is not the expected one."""
    return [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name])}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != tuple(expected[name])
    ]


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _dinov3_vit_shapes(architecture: Architecture) -> Shapes:
    width, patch = architecture.embed_dim, architecture.patch_size
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, 1, width),
        "embeddings.register_tokens": (1, architecture.num_storage_tokens, width),
        "embeddings.patch_embeddings.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.bias": (width,),
        **_norm("norm", width),
    }
    gated = architecture.ffn == "swiglu"
    for index in range(architecture.depth):
        block = f"model.layer.{index}."
        shapes |= _block(block, architecture)
        for name in ("gate_proj", "up_proj") if gated else ("up_proj",):
            shapes |= _linear(f"{block}mlp.{name}", architecture.ffn_dim, width)
        shapes |= _linear(f"{block}mlp.down_proj", width, architecture.ffn_dim)
    return shapes


def _dinov2_shapes(architecture: Architecture) -> Shapes:
    width, patch = architecture.embed_dim, architecture.patch_size
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, architecture.num_positions, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **_norm("layernorm", width),
    }
    if architecture.num_storage_tokens:
        shapes["embeddings.register_tokens"] = (1, architecture.num_storage_tokens, width)
    first, last = (("gate_proj", "up_proj"), "down_proj") if architecture.ffn == "swiglu" else (("fc1",), "fc2")
    for index in range(architecture.depth):
        block = f"encoder.layer.{index}."
        shapes |= _block(block, architecture)
        for name in first:
            shapes |= _linear(f"{block}mlp.{name}", architecture.ffn_dim, width)
        shapes |= _linear(f"{block}mlp.{last}", width, architecture.ffn_dim)
    return shapes


def _block(prefix: str, architecture: Architecture) -> Shapes:
    """Return what the blocks of both kinds of ViT have but for the feed-forward network."""
    width = architecture.embed_dim
    biased = {
        "q_proj": architecture.query_bias,
        "k_proj": architecture.key_bias,
        "v_proj": architecture.query_bias,
        "o_proj": True,
    }
    shapes = {
        **_norm(f"{prefix}norm1", width),
        **_norm(f"{prefix}norm2", width),
        f"{prefix}layer_scale1.lambda1": (width,),
        f"{prefix}layer_scale2.lambda1": (width,),
    }
    for name, has_bias in biased.items():
        shapes[f"{prefix}attention.{name}.weight"] = (width, width)
        if has_bias:
            shapes[f"{prefix}attention.{name}.bias"] = (width,)
    return shapes


def _convnext_shapes(architecture: Architecture) -> Shapes:
    shapes = _norm("layer_norm", architecture.embed_dim)
    before = 3
    for stage, (depth, width) in enumerate(zip(architecture.stage_depths, architecture.stage_dims, strict=True)):
        down = f"model.stages.{stage}.downsample_layers."
        if stage == 0:
            shapes |= {f"{down}0.weight": (width, before, 4, 4), f"{down}0.bias": (width,), **_norm(f"{down}1", width)}
        else:
            shapes |= {**_norm(f"{down}0", before), f"{down}1.weight": (width, before, 2, 2), f"{down}1.bias": (width,)}
        for index in range(depth):
            layer = f"model.stages.{stage}.layers.{index}."
            shapes |= {
                f"{layer}gamma": (width,),
                f"{layer}depthwise_conv.weight": (width, 1, 7, 7),
                f"{layer}depthwise_conv.bias": (width,),
                **_norm(f"{layer}layer_norm", width),
                **_linear(f"{layer}pointwise_conv1", 4 * width, width),
                **_linear(f"{layer}pointwise_conv2", width, 4 * width),
            }
        before = width
    return shapes
