"""Cutting an ONNX graph into parts that run one after the other, so that what several runs share is computed once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from no_time_to_train.runtime.onnx_session import OnnxFile, load_graph, open_graph
from no_time_to_train.runtime.running import run


@dataclass(frozen=True)
class GraphPart:
    """A part of a graph, opened.

    Attributes:
        file: What it is a part of.
        session: The part.
        inputs: Names of the values that it takes: of the graph's inputs, or of what earlier parts give.
        outputs: Names of the values that it gives: of the graph's outputs, or of what later parts take.
    """

    file: OnnxFile
    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the part on values that have at least its inputs.

        Raises:
            WeightsFormatError: ONNX Runtime fails.
        """
        found = run(self.file, self.session, {name: values[name] for name in self.inputs}, self.outputs)
        return dict(zip(self.outputs, found, strict=True))


def open_parts(
    file: OnnxFile,
    first: Collection[str],
    second: Collection[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[GraphPart, GraphPart, GraphPart]:
    """Cut a graph into three parts, and open them.

    Args:
        file: As `read_onnx_file` gives it.
        first: Inputs of the graph: the first part is what depends on them alone.
        second: Outputs of the graph: the second part is what else they need. The third is the rest.
        device: As of `open_session`.
        threads: Of the second and the third part, on the CPU; onnxruntime's choice if None.

    Raises:
        ConfigError: There is no such device, or onnxruntime is older than the file needs.
        WeightsFormatError: onnxruntime refuses a part.
    """
    model = load_graph(file)
    stages = _stages(model.graph, set(first), set(second))
    made = {name: stage for node, stage in zip(model.graph.node, stages, strict=True) for name in node.output}
    types = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    weights = {tensor.name for tensor in model.graph.initializer}
    wanted = {value.name for value in model.graph.output}
    parts: list[GraphPart] = []
    for stage in range(3):
        # What depends on no input is a constant, which every part makes for itself.
        nodes = [node for node, own in zip(model.graph.node, stages, strict=True) if own in (stage, _CONSTANT)]
        needed = _without_unused(nodes, {name for node in nodes for name in node.output if made[name] == stage})
        taken = [name for node in needed for name in node.input if name and name not in weights]
        inputs = tuple(dict.fromkeys(name for name in taken if made.get(name, -2) not in (stage, _CONSTANT)))
        later = {name for node, own in zip(model.graph.node, stages, strict=True) if own > stage for name in node.input}
        given = [name for node in needed for name in node.output if made[name] == stage]
        outputs = tuple(name for name in given if name in later or name in wanted)
        part = onnx.ModelProto()
        part.CopyFrom(model)
        for field in (part.graph.node, part.graph.input, part.graph.output, part.graph.initializer):
            del field[:]
        part.graph.node.extend(needed)
        part.graph.input.extend(types[name] for name in inputs)
        part.graph.output.extend(types.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
        used = {name for node in needed for name in node.input}
        part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
        session = open_graph(file, part, device=device, threads=threads if stage else None)
        for value in session.get_outputs():
            # As ONNX Runtime infers it; a later part states it of its input.
            kind = _TYPES[value.type]
            types.setdefault(value.name, onnx.helper.make_tensor_value_info(value.name, kind, value.shape))
        parts.append(GraphPart(file, session, inputs, outputs))
    return parts[0], parts[1], parts[2]


_CONSTANT = -1
_TYPES = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(int32)": onnx.TensorProto.INT32,
    "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(bool)": onnx.TensorProto.BOOL,
}


def _stages(graph: onnx.GraphProto, first: set[str], second: set[str]) -> list[int]:
    """Return the part to which each node belongs, in their order."""
    inputs = {value.name for value in graph.input}
    depends: dict[str, set[str]] = {name: {name} for name in inputs}
    needs: list[set[str]] = []
    for node in graph.node:
        found = set().union(*(depends.get(name, set()) for name in node.input))
        needs.append(found)
        depends |= dict.fromkeys(node.output, found)
    waiting = set(second)
    stages = []
    for node, found in zip(reversed(graph.node), reversed(needs), strict=True):
        needed = not waiting.isdisjoint(node.output)
        if needed:
            waiting |= set(node.input)
        stages.append(_CONSTANT if not found else 0 if found <= first else 1 if needed else 2)
    return stages[::-1]


def _without_unused(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Leave out nodes that none of the outputs needs."""
    waiting, kept = set(outputs), []
    for node in reversed(nodes):
        if not waiting.isdisjoint(node.output):
            waiting |= set(node.input)
            kept.append(node)
    return kept[::-1]
