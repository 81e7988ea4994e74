"""What a weights file holds: its layout, its architecture, its tensors under transformers' names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

Family = Literal["dinov3_vit", "dinov3_convnext", "dinov2"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An encoder's architecture, as its tensors show it.

    Attributes:
        family: Which transformers model takes the tensors.
        embed_dim: Width of the final tokens.
        depth: Transformer blocks, or the sum of the ConvNeXt stages' blocks.
        num_heads: Attention heads; None where the tensors don't tell, 0 for a ConvNeXt.
        ffn: Kind of the feed-forward network.
        ffn_dim: Its hidden width; 0 for a ConvNeXt.
        patch_size: Side of a patch in pixels; the total stride of a ConvNeXt.
        num_storage_tokens: Storage (register) tokens.
        stage_depths: Blocks per ConvNeXt stage.
        stage_dims: Width per ConvNeXt stage.
        query_bias: Whether queries have a bias; values have one exactly when queries do.
        key_bias: Whether keys have an effective bias.
        num_positions: Stored position embeddings with the CLS token's (DINOv2); 0 where there are none.
        untied_norm: Whether the file carries the separate norm of Meta's local crops, which inference leaves out.
    """

    family: Family
    embed_dim: int
    depth: int
    num_heads: int | None = 0
    ffn: Literal["mlp", "swiglu"] = "mlp"
    ffn_dim: int = 0
    patch_size: int = 16
    num_storage_tokens: int = 0
    stage_depths: tuple[int, ...] = ()
    stage_dims: tuple[int, ...] = ()
    query_bias: bool = True
    key_bias: bool = False
    num_positions: int = 0
    untied_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """A weights file, read and mapped to transformers' names.

    Attributes:
        path: The file or folder as the user named it.
        layout: Name of the layout that the file was in.
        architecture: What the tensors show.
        tensors: By the names of transformers' current models, in the stored dtype.
        rope_periods: Stored RoPE periods, one per quarter of the head width; None where the layout stores none.
        model_config: The `config.json` beside the weights; empty where there is none.
        preprocessor: The `preprocessor_config.json` beside the weights; empty where there is none.
    """

    path: Path
    layout: str
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    rope_periods: Float[Tensor, " quarter_head"] | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
