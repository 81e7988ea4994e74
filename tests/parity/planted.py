"""Mistakes put into Equinox encoders and exported files, with where each ought to be found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import numpy as np
import onnx

from no_time_to_train.jax_models.convnext import DinoV3ConvNeXt
from no_time_to_train.jax_models.load import EqxEncoder
from no_time_to_train.runtime.onnx_session import IDENTITY, WEIGHTS_HASHES
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.formats.stored_tensor import FileRange

Model = TypeVar("Model", bound=eqx.Module)
# What of a block is scaled, and the stage where that shows.
VIT = {
    "norm1.weight": "attn_in",
    "attention.q_proj.weight": "attn_raw",
    "attention.v_proj.weight": "attn_raw",
    "attention.o_proj.weight": "attn_raw",
    "layer_scale1": "attn_scaled",
    "norm2.bias": "mlp_in",
    "mlp.up_proj.weight": "mlp_raw",
    "mlp.down_proj.weight": "mlp_raw",
    "mlp.down_proj.bias": "mlp_raw",
    "layer_scale2": "mlp_scaled",
}
CONVNEXT = {
    "depthwise_conv.weight": "conv_raw",
    "norm.weight": "mlp_in",
    "pointwise_conv1.weight": "mlp_raw",
    "pointwise_conv2.bias": "mlp_raw",
    "gamma": "mlp_scaled",
}


class Fault(NamedTuple):
    """A model with a mistake, and where it is."""

    what: str
    block: int
    stage: str
    model: EqxEncoder


def equinox_faults(model: EqxEncoder) -> Iterator[Fault]:
    """Scale one tensor by 1.001 at a time, or change one norm's eps."""
    if isinstance(model, DinoV3ConvNeXt):
        yield from _convnext_faults(model)
        return
    for block in range(len(model.blocks)):
        for name, stage in VIT.items():
            yield Fault(name, block, stage, scaled(model, f"blocks.{block}.{name}"))
        for name, stage in (("norm1", "attn_in"), ("norm2", "mlp_in")):
            yield Fault(f"{name}'s eps", block, stage, with_eps(model, f"blocks.{block}.{name}", 1e-6))
    yield Fault("the class token", -1, "embedding", scaled(model, "cls_token"))
    yield Fault("the patch embedding", -1, "embedding", scaled(model, "patch_embed.weight"))
    yield Fault("the final norm", len(model.blocks), "final_norm", scaled(model, "norm.weight"))


def _convnext_faults(model: DinoV3ConvNeXt) -> Iterator[Fault]:
    index = 0
    for stage, part in enumerate(model.stages):
        for layer in (0, 1):
            name = f"stages.{stage}.downsample.{layer}.weight"
            yield Fault(name, index, "downsample", scaled(model, name))
        for block in range(len(part.blocks)):
            for name, where in CONVNEXT.items():
                yield Fault(name, index, where, scaled(model, f"stages.{stage}.blocks.{block}.{name}"))
            index += 1


def scaled(model: Model, name: str) -> Model:
    """Return the model with one of its tensors 1.001 times what it is."""
    changed: Model = eqx.tree_at(_at(name), model, replace_fn=lambda leaf: leaf * 1.001)
    return changed


def with_eps(model: Model, name: str, eps: float) -> Model:
    """Return the model with another eps in one of its norms."""
    norm = _at(name)(model)
    other = eqx.nn.LayerNorm(norm.weight.shape, eps=eps)
    other = eqx.tree_at(lambda new: (new.weight, new.bias), other, (norm.weight, norm.bias))
    changed: Model = eqx.tree_at(_at(name), model, other)
    return changed


def _at(name: str) -> Callable[[Any], Any]:
    def find(tree: Any) -> Any:
        for part in name.split("."):
            tree = tree[int(part)] if part.isdigit() else getattr(tree, part)
        return tree

    return find


def scale_in_file(folder: Path, name: str, factor: float = 1.001) -> None:
    """Scale a tensor in the weights next to an exported file, which then records no hashes of them."""
    for path in folder.glob("*.safetensors"):
        tensors = open_weights(path).tensors
        if name not in tensors:
            continue
        (piece,) = tensors[name].pieces
        assert isinstance(piece, FileRange)
        with path.open("r+b") as stream:
            stream.seek(piece.offset)
            values = np.frombuffer(stream.read(piece.length), np.float32) * np.float32(factor)
            stream.seek(piece.offset)
            stream.write(values.tobytes())
        for graph in folder.glob("*.onnx"):
            forget_hashes(graph)
        return
    raise KeyError(name)


def forget_hashes(path: Path) -> None:
    """Take away by which hashes an exported file knows its weights, as another program's file has none."""
    model = onnx.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {key: kept[key] for key in kept if key not in (IDENTITY, WEIGHTS_HASHES)})
    path.write_bytes(model.SerializeToString())


def change_eps(folder: Path, index: int, eps: float) -> None:
    """Change the eps of the n-th norm of an exported graph."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    (attribute,) = (attribute for attribute in norms[index].attribute if attribute.name == "epsilon")
    attribute.f = eps
    path.write_bytes(model.SerializeToString())


def replace_gelu(folder: Path, index: int) -> None:
    """Let the n-th GELU of an exported graph be its tanh form."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    node = [node for node in model.graph.node if node.op_type == "Gelu"][index]
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    path.write_bytes(model.SerializeToString())
