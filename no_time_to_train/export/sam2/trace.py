"""SAM2 as two ONNX graphs whose weights are inputs still: one embeds images, one decodes prompts.

Inputs and outputs have the names that transformers.js gives them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx_ir as ir
from jax import lax
from jax.core import ShapedArray
from jax.export import symbolic_shape

from no_time_to_train.export.tidy import simplify
from no_time_to_train.export.trace import PIXEL_VALUES, Sizes, trace
from no_time_to_train.jax_models.layers import Tap
from no_time_to_train.jax_models.sam2 import Sam2
from no_time_to_train.jax_models.sam2.prompt_encoder import CORNERS

EMBEDDINGS = ("image_embeddings.0", "image_embeddings.1", "image_embeddings.2")
PROMPTS = ("input_points", "input_labels", "input_boxes")
MASKS = ("iou_scores", "pred_masks", "object_score_logits")


def trace_image_encoder(model: Sam2, *, batch_size: int | None = None, opset: int = 23) -> ir.Model:
    """Trace what embeds images.

    Args:
        model: Its leaves need no values; none is read.
        batch_size: Images at a time; any if None.
        opset: Of ONNX.

    Returns:
        A graph with the inputs `pixel_values` (batch, 3, S, S) and those of the weights that it uses, and the outputs
        `image_embeddings.0`, `.1` and `.2` at strides 4, 8 and 16. Values at the end of a stage have its name.
    """
    return _image_graph(Sizes.of(model), batch_size, opset).clone()


@functools.lru_cache(maxsize=4)
def _image_graph(sizes: Sizes, batch_size: int | None, opset: int) -> ir.Model:
    model: Sam2 = sizes.model()
    (batch,) = symbolic_shape("batch")
    side = model.architecture.image_size
    pixels = ShapedArray((batch if batch_size is None else batch_size, 3, side, side), jnp.float32)

    def embed(filled: Sam2, tap: Tap, pixel_values: jax.Array) -> tuple[jax.Array, ...]:
        return filled.embed(pixel_values, tap)

    traced = trace(embed, model, {PIXEL_VALUES: pixels}, EMBEDDINGS, opset=opset)
    count = "batch" if batch_size is None else batch_size
    traced.graph.inputs[0].shape = ir.Shape([count, 3, side, side])
    for output, shape in zip(traced.graph.outputs, model.architecture.embedding_shapes, strict=True):
        output.shape = ir.Shape([count, *shape])
    return traced


def trace_prompt_decoder(model: Sam2, *, opset: int = 23) -> ir.Model:
    """Trace what decodes prompts on one image.

    Args:
        model: Its leaves need no values; none is read.
        opset: Of ONNX.

    Returns:
        A graph with the inputs `image_embeddings.0`, `.1` and `.2`, `input_points` (1, N, P, 2), `input_labels`
        (1, N, P) of int64, `input_boxes` (1, N or 0, 4) and those of the weights that it uses, and the outputs
        `iou_scores` (1, N, 3), `pred_masks` (1, N, 3, S / 4, S / 4) and `object_score_logits` (1, N, 1).
    """
    return _prompt_graph(Sizes.of(model), opset).clone()


@functools.lru_cache(maxsize=4)
def _prompt_graph(sizes: Sizes, opset: int) -> ir.Model:
    model: Sam2 = sizes.model()
    prompts, points = symbolic_shape("prompts, points")
    shapes = zip(EMBEDDINGS, model.architecture.embedding_shapes, strict=True)
    inputs = {name: ShapedArray((1, *shape), jnp.float32) for name, shape in shapes}
    inputs |= {
        PROMPTS[0]: ShapedArray((prompts, points, 2), jnp.float32),
        PROMPTS[1]: ShapedArray((prompts, points), jnp.int32),
    }

    def decode(filled: Sam2, tap: Tap, *values: jax.Array) -> tuple[jax.Array, ...]:
        del tap
        stride4, stride8, coarse = (lax.squeeze(value, (0,)) for value in values[:3])
        found = filled.decode((stride4, stride8, coarse), values[3], values[4])
        return found.predicted_iou, found.logits, found.object_score_logits

    traced = trace(decode, model, inputs, MASKS, opset=opset)
    _take_prompts(traced)
    _give_batches_of_one(traced)
    simplify(traced)
    number, side = model.architecture.num_masks, model.architecture.image_size // 4
    for output, rest in zip(traced.graph.outputs, ((number,), (number, side, side), (1,)), strict=True):
        output.shape = ir.Shape([1, "num_prompts", *rest])
    return traced


def _take_prompts(model: ir.Model) -> None:
    """Let a graph take points, labels and boxes as transformers.js gives them.

    Boxes become two points each, with labels of their own. How many prompts there are is said by the labels: with boxes
    alone the points are (1, 1, 0, 2), and with points alone the boxes are (1, 0, 4).
    """
    graph = model.graph
    first = next(iter(graph))
    taken = {value.name: value for value in graph.inputs}
    shapes: tuple[list[int | str], ...] = (
        [1, "num_prompts_of_points", "num_points", 2],
        [1, "num_prompts", "num_points"],
        [1, "num_boxes", 4],
    )
    dtypes = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.FLOAT)
    points, labels, boxes = (
        ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        for name, dtype, shape in zip(PROMPTS, dtypes, shapes, strict=True)
    )

    def add(operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes=attributes)
        graph.insert_before(first, node)
        return node.outputs[0]

    def constant(values: list[int] | list[list[int]], dtype: type = np.int64) -> ir.Value:
        node = ir.node("Constant", [], attributes={"value": ir.tensor(np.asarray(values, dtype))})
        graph.insert_before(first, node)
        return node.outputs[0]

    prompts, number = add("Shape", labels, start=1, end=2), add("Shape", labels, start=2, end=3)
    two = constant([2])
    corners = add("Div", add("Mul", add("Shape", boxes, start=1, end=2), two), prompts)

    def reshaped(values: ir.Value, *sizes: ir.Value) -> ir.Value:
        return add("Reshape", values, add("Concat", *sizes, axis=0), allowzero=1)

    kinds = add("Slice", constant([list(CORNERS)], np.int32), constant([0]), corners, constant([1]))
    every_point = add("Concat", reshaped(points, prompts, number, two), reshaped(boxes, prompts, corners, two), axis=1)
    every_label = add(
        "Concat",
        add("Cast", reshaped(labels, prompts, number), to=int(ir.DataType.INT32)),
        add("Expand", kinds, add("Concat", prompts, corners, axis=0)),
        axis=1,
    )
    taken[PROMPTS[0]].replace_all_uses_with(every_point)
    taken[PROMPTS[1]].replace_all_uses_with(every_label)
    weights = list(graph.inputs)[len(EMBEDDINGS) + 2 :]
    kept = [*list(graph.inputs)[: len(EMBEDDINGS)], points, labels, boxes, *weights]
    while graph.inputs:
        graph.inputs.pop()
    graph.inputs.extend(kept)


def _give_batches_of_one(model: ir.Model) -> None:
    """Give the outputs of a graph an axis for the one image."""
    graph = model.graph
    axis = ir.node("Constant", [], attributes={"value": ir.tensor(np.asarray([0], np.int64))})
    graph.append(axis)
    for index, flat in enumerate(graph.outputs):
        node = ir.node("Unsqueeze", [flat, axis.outputs[0]])
        graph.append(node)
        (output,) = node.outputs
        output.name, flat.name = flat.name, f"{flat.name}.prompts"
        output.type = flat.type
        graph.outputs[index] = output
