"""The tensors that an architecture has, so that an incomplete file is known before anything is built or written."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.json_files import FETCH_AGAIN
from no_time_to_train.weights.source import Architecture

Shapes = dict[str, tuple[int, ...]]

# The mask token serves pre-training only: files without it are whole.
OPTIONAL = ("embeddings.mask_token",)


def shapes_of(architecture: Architecture) -> Shapes:
    """Return the shapes of an encoder's tensors, by the names of transformers' current models.

    Args:
        architecture: As `read_architecture` gives it, or of a registry entry.
    """
    if architecture.family == "dinov3_convnext":
        return _convnext(architecture)
    return _dinov2(architecture) if architecture.family == "dinov2" else _dinov3_vit(architecture)


def check_complete(tensors: Mapping[str, Tensor], architecture: Architecture, source: str) -> None:
    """Refuse a file that lacks tensors of its architecture, or has some of another shape.

    Args:
        tensors: By transformers' names; shapes are enough, they may be on the meta device.
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


def wrong_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> list[str]:
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


def _dinov3_vit(architecture: Architecture) -> Shapes:
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


def _dinov2(architecture: Architecture) -> Shapes:
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


def _convnext(architecture: Architecture) -> Shapes:
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
