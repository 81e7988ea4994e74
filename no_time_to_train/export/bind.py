"""Weights of a graph as external data at their places in safetensors files: nothing is copied, nothing is loaded."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor


def bind_weights(
    model: ir.Model, weights: Mapping[str, StoredTensor], folder: Path | None, *, as_computed: bool = False
) -> None:
    """Turn a graph's inputs for weights into initializers.

    A tensor that lies in a file becomes external data: that file's name, and where in it the tensor's bytes are. One
    that was computed, such as RoPE periods, goes into the graph. Those stored in another dtype than the graph computes
    in are cast as it runs, unless they are copied `as_computed`.

    Args:
        model: As `trace` gave it; changed. Inputs that are not weights stay.
        weights: By the names of the graph's inputs; files in `folder` or below it.
        folder: Where the graph will be written; None if its weights will be copied from wherever they are.
        as_computed: Give the weights the dtype that the graph computes in, one by one as they are copied. Some tools
            read no weights that a graph casts.
    """
    graph = model.graph
    first = next(iter(graph))
    for value in list(graph.inputs):
        if value.name is None or value.name not in weights or value.shape is None:
            continue
        graph.inputs.remove(value)
        tensor = _tensor(value.name, value.shape, weights[value.name], folder)
        if as_computed and value.dtype is not None and tensor.dtype != value.dtype:
            tensor = _computed(tensor, value.dtype, value.shape)
        if tensor.dtype != value.dtype:
            cast = ir.node("Cast", [value], attributes={"to": value.dtype}, name=f"{value.name}.cast")
            cast.outputs[0].name = f"{value.name}.cast"
            value.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, value)
            graph.insert_before(first, cast)
            value.type = ir.TensorType(tensor.dtype)
        value.const_value = tensor
        graph.register_initializer(value)


def _computed(tensor: ir.TensorProtocol, dtype: ir.DataType, shape: ir.Shape) -> ir.TensorProtocol:
    def load() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype(dtype.numpy()), name=tensor.name)

    return ir.LazyTensor(load, dtype=dtype, shape=shape, name=tensor.name)


def _tensor(name: str, shape: ir.Shape, stored: StoredTensor, folder: Path | None) -> ir.TensorProtocol:
    (piece,) = stored.pieces
    if not isinstance(piece, FileRange):
        return ir.tensor(stored.array().reshape(shape.numpy()), name=name)
    base = piece.file.parent if folder is None else folder
    # Both are named as a user did: relative, or through a link to a folder.
    place = piece.file.parent.resolve() / piece.file.name
    return ir.ExternalTensor(
        place.relative_to(base.resolve()).as_posix(),
        piece.offset,
        piece.length,
        ir.DataType.from_numpy(stored.dtype),
        shape=shape,
        name=name,
        base_dir=base,
    )
