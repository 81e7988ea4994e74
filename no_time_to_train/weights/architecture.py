"""Telling an architecture from tensors, never from a file's name."""

import re
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, EncoderConfig
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.weights.layouts.base import Layout
from no_time_to_train.weights.source import Architecture


def read_architecture(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    source: str,
    *,
    rope_periods: Float[Tensor, " quarter_head"] | None = None,
    untied_norm: bool = False,
) -> Architecture:
    """Read the architecture from the shapes of an encoder's tensors.

    Args:
        tensors: By transformers' names; shapes are enough, they may be on the meta device.
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


def matches(entry: EncoderConfig, architecture: Architecture) -> bool:
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
        and (entry.qkv_bias or not architecture.query_bias)
        and architecture.num_heads in (None, entry.num_heads)
        and ffn_fits
    )


def fitting_entries(architecture: Architecture) -> list[EncoderConfig]:
    """Return the registry entries that tensors of this architecture can be, the likeliest first.

    Of the entries that share an architecture, Meta's satellite ViT-L alone carries the norm of local crops.
    """
    fitting = [entry for entry in ENCODER_CONFIGS.values() if matches(entry, architecture)]
    satellite = architecture.untied_norm and architecture.embed_dim == 1024
    return fitting[::-1] if satellite else fitting


def known_sizes(architecture: Architecture) -> str:
    """Describe an architecture in a few words, for messages.

    Examples:
        >>> known_sizes(Architecture(family="dinov3_vit", embed_dim=384, depth=12, ffn_dim=1536, num_storage_tokens=4))
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
    tensors: Mapping[str, Tensor], layout: Layout, rope_periods: Tensor | None, *, untied_norm: bool
) -> Architecture:
    dinov2 = layout.family == "dinov2"
    blocks = "encoder.layer" if dinov2 else "model.layer"
    patch = tensors["embeddings.patch_embeddings.projection.weight" if dinov2 else "embeddings.patch_embeddings.weight"]
    embed_dim = patch.shape[0]
    gated = f"{blocks}.0.mlp.gate_proj.weight" in tensors
    first_ffn = f"{blocks}.0.mlp.{'fc1' if dinov2 and not gated else 'up_proj'}.weight"
    registers = tensors.get("embeddings.register_tokens")
    positions = tensors.get("embeddings.position_embeddings")
    if rope_periods is not None and (not rope_periods.numel() or embed_dim % (4 * rope_periods.numel())):
        raise ValueError(
            f"it has {rope_periods.numel()} RoPE periods, expected a quarter of the width of an attention head, "
            f"by which its width of {embed_dim} can be divided"
        )
    return Architecture(
        family=layout.family,
        embed_dim=embed_dim,
        depth=_count(tensors, rf"{re.escape(blocks)}\.(\d+)\."),
        num_heads=None if rope_periods is None else embed_dim // (4 * rope_periods.numel()),
        ffn="swiglu" if gated else "mlp",
        ffn_dim=tensors[first_ffn].shape[0],
        patch_size=patch.shape[-1],
        num_storage_tokens=0 if registers is None else registers.shape[1],
        query_bias=f"{blocks}.0.attention.q_proj.bias" in tensors,
        key_bias=f"{blocks}.0.attention.k_proj.bias" in tensors,
        num_positions=0 if positions is None else positions.shape[1],
        untied_norm=untied_norm,
    )


def _convnext(tensors: Mapping[str, Tensor]) -> Architecture:
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


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    """Count the blocks whose names match, by the highest index.

    Raises:
        ValueError: It is higher than there are tensors: what is done for each block would take all time and memory.
    """
    highest = max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)
    if highest >= len(names):
        raise ValueError(f"its blocks are numbered up to {highest}, and it holds only {len(names)} tensors")
    return 1 + highest
