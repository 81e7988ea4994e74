"""Smaller numbers: fp16 where it is safe, int8 for the linear layers' weights.

fp16 stores the weights of linear layers, and computes attention and the layers into it and into the feed-forward
network. What can leave its range, ±65504, or lose its meaning in 11 bits stays in fp32: the residual stream, to which
every block adds and in which trained ViTs carry a few values a thousand times larger than the rest; the layers that end
a branch, whose output is large before LayerScale makes it small, and whose input in gated networks is a product of two
activations; the norms, which square it; the RoPE angles; and softmax, which the Attention operator is told to compute
in fp32. A CPU computes fp16 in fp32, so that comparing there would not show what leaves the range.

int8 is dynamic quantisation: weights by channel, activations by tensor as the graph runs, products in int32. Norms,
attention, biases and everything else stay in fp32.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from no_time_to_train.errors import ExportError
from no_time_to_train.weights.formats.stored_tensor import LazyBytes, StoredTensor

_HALF = ir.DataType.FLOAT16
_IN_HALF = ("Gemm", "RotaryEmbedding", "Attention", "Gelu", "MatMul")
_ENDS_A_BRANCH = (
    "attention.o_proj.weight",
    "mlp.down_proj.weight",
    "pointwise_conv2.weight",
    "attn.proj.weight",
    "mlp.proj_out.weight",
)
_SOFTMAX_IN_FP32 = int(ir.DataType.FLOAT)


def to_half(model: ir.Model) -> set[str]:
    """Let a graph compute its linear layers and attention in fp16.

    Args:
        model: As `trace_encoder` gave it; changed.

    Returns:
        The names of the weights that are to be stored in fp16.
    """
    graph = model.graph
    weights = {value for value in graph.inputs[1:]}
    wanted = set()
    for node in list(graph):
        if node.op_type not in _IN_HALF:
            continue
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        if weight is not None and weight not in weights:
            continue  # a product of what is computed, such as positions
        if weight is not None and str(weight.name).endswith(_ENDS_A_BRANCH):
            wanted.add(str(weight.name))
            continue
        for index, value in enumerate(node.inputs):
            if value in weights and value is not None:
                value.type = ir.TensorType(_HALF)
                wanted.add(str(value.name))
            elif value is not None:
                node.replace_input_with(index, _cast(graph, value, _HALF, before=node))
        if node.op_type == "Attention":
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", _SOFTMAX_IN_FP32)
        output = node.outputs[0]
        users = list(output.uses())
        back = _cast(graph, output, ir.DataType.FLOAT, after=node)
        for user, index in users:
            user.replace_input_with(index, back)
    _drop_round_trips(graph)
    return wanted


def to_int8(model: ir.Model) -> set[str]:
    """Let a graph multiply its linear layers in int8.

    Args:
        model: As `trace_encoder` gave it; changed. Each weight becomes two: `<name>.int8`, transposed, and
            `<name>.scale`, one a channel.

    Returns:
        The names of the weights that are quantised.
    """
    graph = model.graph
    quantised: dict[ir.Value, tuple[ir.Value, ...]] = {}
    names = set()
    parameters = set(graph.inputs)
    for node in [node for node in graph if node.op_type == "Gemm" and node.inputs[1] in parameters]:
        values, weight, *bias = node.inputs
        assert values is not None
        assert weight is not None
        assert weight.shape is not None
        if values not in quantised:
            dynamic = ir.node("DynamicQuantizeLinear", [values], num_outputs=3)
            graph.insert_before(node, dynamic)
            quantised[values] = tuple(dynamic.outputs)
        integers, scale, zero = quantised[values]
        rows, columns = weight.shape.numpy()
        stored = ir.Value(
            name=f"{weight.name}.int8", type=ir.TensorType(ir.DataType.INT8), shape=ir.Shape([columns, rows])
        )
        scales = ir.Value(name=f"{weight.name}.scale", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([rows]))
        names.add(str(weight.name))
        # onnxruntime fuses this very pattern into one operator.
        product = ir.node("MatMulInteger", [integers, stored, zero])
        number = ir.node("Cast", product.outputs, attributes={"to": ir.DataType.FLOAT})
        factor = ir.node("Mul", [scale, scales])
        result = ir.node("Mul", [number.outputs[0], factor.outputs[0]])
        made = [product, number, factor, result]
        if bias:
            made.append(ir.node("Add", [result.outputs[0], bias[0]]))
        graph.insert_before(node, made)
        node.outputs[0].replace_all_uses_with(made[-1].outputs[0])
        made[-1].outputs[0].name, node.outputs[0].name = node.outputs[0].name, None
        graph.remove(node, safe=True)
        graph.inputs.remove(weight)
        graph.inputs.extend((stored, scales))
    return names


def half_weights(weights: Mapping[str, StoredTensor], names: set[str]) -> dict[str, StoredTensor]:
    """Give the named weights as fp16, computed as they are written."""
    return {name: _half(name, tensor) if name in names else tensor for name, tensor in weights.items()}


def int8_weights(weights: Mapping[str, StoredTensor], names: set[str]) -> dict[str, StoredTensor]:
    """Give the named weights as int8 and a scale a channel, computed as they are written."""
    result: dict[str, StoredTensor] = {}
    for name, tensor in weights.items():
        if name in names:
            result |= _int8(name, tensor)
        else:
            result[name] = tensor
    return result


def _half(name: str, tensor: StoredTensor) -> StoredTensor:
    if tensor.dtype == np.float16:
        return tensor
    length = 2 * int(np.prod(tensor.shape))

    def halves() -> bytes:
        values = tensor.array().astype(np.float32)
        if not np.abs(values).max(initial=0) <= np.finfo(np.float16).max:  # nor if it is not a number
            raise ExportError(f"{name} holds values beyond the range of fp16", remedy="export it in fp32")
        content: bytes = values.astype(np.float16).tobytes()
        return content

    return StoredTensor(np.dtype(np.float16), tensor.shape, (LazyBytes(length, halves),))


def _int8(name: str, tensor: StoredTensor) -> dict[str, StoredTensor]:
    rows, columns = tensor.shape

    def scales() -> np.ndarray:
        values = tensor.array().astype(np.float32)
        largest = np.abs(values).max(axis=1)
        if not np.isfinite(largest).all():
            raise ExportError(f"{name} holds NaN or Inf", remedy="ntt inspect says which tensors do")
        return np.where(largest > 0, largest / 127, 1).astype(np.float32)

    def integers() -> bytes:
        values = tensor.array().astype(np.float32)
        content: bytes = np.rint(values / scales()[:, None]).astype(np.int8).T.tobytes()
        return content

    return {
        f"{name}.int8": StoredTensor(np.dtype(np.int8), (columns, rows), (LazyBytes(rows * columns, integers),)),
        f"{name}.scale": StoredTensor(
            np.dtype(np.float32), (rows,), (LazyBytes(4 * rows, lambda: scales().tobytes()),)
        ),
    }


def _cast(
    graph: ir.Graph, value: ir.Value, dtype: ir.DataType, *, before: ir.Node | None = None, after: ir.Node | None = None
) -> ir.Value:
    node = ir.node("Cast", [value], attributes={"to": dtype})
    if before is not None:
        graph.insert_before(before, node)
    if after is not None:
        graph.insert_after(after, node)
    return node.outputs[0]


def _drop_round_trips(graph: ir.Graph) -> None:
    """Let fp16 values go from one fp16 operator to the next, through reshapes too, without a detour by fp32."""
    for node in list(graph):
        if node.op_type != "Cast" or node.attributes["to"].as_int() != _HALF:
            continue
        value = node.inputs[0]
        path = []
        while value is not None and (reshape := value.producer()) is not None and reshape.op_type == "Reshape":
            path.append(reshape)
            value = reshape.inputs[0]
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != "Cast" or producer.attributes["to"].as_int() != ir.DataType.FLOAT:
            continue
        half = producer.inputs[0]
        for reshape in reversed(path):
            again = ir.node("Reshape", [half, reshape.inputs[1]])
            graph.insert_before(node, again)
            half = again.outputs[0]
        assert half is not None
        node.outputs[0].replace_all_uses_with(half)
