"""Making a traced graph small: what tracing over unknown sizes leaves behind goes, parameters are declared as used."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

# Of ReduceMean; jax2onnx makes them one whatever the opset.
_AXES_ARE_AN_INPUT = 18
_SHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Expand")


def tidy(model: ir.Model, parameters: set[str]) -> None:
    """Remove what a graph can do without.

    Args:
        model: As jax2onnx traced it; changed.
        parameters: Names of the inputs that will be weights, which a graph may be told to have in another shape, as
            their bytes stay the same.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type in _SHAPING and node.graph is graph:  # one removes the others of its kind
            _declare_in_shape(graph, node, parameters)
    for node in list(graph):
        if node.op_type == "Gemm":
            _drop_zero_bias(node)
        elif node.op_type == "Conv":
            _take_bias(graph, node, parameters)
        elif node.op_type == "ReduceMean" and (model.opset_imports.get("") or 0) < _AXES_ARE_AN_INPUT:
            _take_axes(node)
    simplify(model)
    outputs = set(graph.outputs)
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            if value not in outputs:
                value.type, value.shape = None, None


def simplify(model: ir.Model) -> None:
    """Remove what is computed twice, or for nothing, and give every value a name of its own."""
    rewrites = (
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(size_limit=1 << 16),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
    )
    for rewrite in rewrites:
        rewrite(model)
    # The passes leave some that only nodes outside of the graph use, and onnxruntime warns of them.
    used = {value for node in model.graph.all_nodes() for value in node.inputs} | set(model.graph.outputs)
    for name, value in list(model.graph.initializers.items()):
        if value not in used:
            model.graph.initializers.pop(name)


def _declare_in_shape(graph: ir.Graph, node: ir.Node, parameters: set[str]) -> None:
    """Declare a parameter in the shape in which all its users want it, instead of reshaping it as the graph runs."""
    parameter, output = node.inputs[0], node.outputs[0]
    if parameter is None or parameter.name not in parameters or output.shape is None or parameter.shape is None:
        return
    users = parameter.consumers()
    shapes = {tuple(user.outputs[0].shape or ()) for user in users}
    same = len(shapes) == 1 and all(user.op_type in _SHAPING for user in users)
    if not same or not output.shape.is_static() or np.prod(output.shape.numpy()) != np.prod(parameter.shape.numpy()):
        return
    shape = ir.Shape(output.shape)
    for user in users:
        user.outputs[0].replace_all_uses_with(parameter)
        graph.remove(user, safe=True)
    parameter.shape = shape


def _take_bias(graph: ir.Graph, node: ir.Node, parameters: set[str]) -> None:
    """Let a convolution add its bias itself."""
    users = node.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Add":
        return
    (bias,) = (value for value in users[0].inputs if value is not node.outputs[0])
    if bias is None or bias.name not in parameters or bias.shape is None or len(bias.uses()) != 1:
        return
    bias.shape = ir.Shape([bias.shape[1]])
    name = users[0].outputs[0].name
    users[0].outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    graph.remove(users[0], safe=True)
    node.outputs[0].name = name
    node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _take_axes(node: ir.Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None and axes.const_value is not None:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
        node.resize_inputs(1)


def _drop_zero_bias(node: ir.Node) -> None:
    """Leave out a bias of zeros, which jax2onnx gives a linear layer that has none."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    producer = bias.producer() if bias is not None else None
    if producer is not None and producer.op_type == "ConstantOfShape":
        node.resize_inputs(2)
