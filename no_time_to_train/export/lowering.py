"""What functions of `jax_models.layers` become in ONNX.

jax2onnx lowers `layers.attend` to many small nodes, and reshapes to unknown sizes to arithmetic on them. Here the one
becomes the standard operators `RotaryEmbedding` and `Attention` (their parts below opset 23), the others one `Reshape`.
jax2onnx's way to extend it is a primitive that stands for a function while it traces.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax2onnx.plugins._patching import AssignSpec, MonkeyPatchSpec
from jax2onnx.plugins.plugin_system import PrimitiveLeafPlugin, register_primitive

from no_time_to_train.jax_models import layers

_ATTENTION_SINCE = 23


class _Nodes:
    """Adds nodes to the graph that is being built: `nodes.Mul(a, b)`."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.opset = int(ctx.builder.opset)

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        def add(*inputs: ir.Value, outputs: int = 1, **attributes: Any) -> Any:
            names = [self._ctx.fresh_name(operator.lower()) for _ in range(outputs)]
            return getattr(self._ctx.builder, operator)(*inputs, **attributes, _outputs=names)

        return add

    def constant(self, values: list[int] | float) -> ir.Value:
        """Add a constant: int64 for whole numbers, float32 for one with a point."""
        array = np.asarray(values, np.float32 if isinstance(values, float) else np.int64)
        name = self._ctx.fresh_name("constant")
        value: ir.Value = self._ctx.builder.add_initializer_from_array(name=name, array=array)
        return value


def _bind(primitive: Primitive, *arrays: Any, **parameters: Any) -> Any:
    bind: Callable[..., Any] = primitive.bind  # which has no annotations
    return bind(*arrays, **parameters)


def _while_tracing(primitive: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """Let a primitive stand for a function in the thread that traces, and nowhere else."""
    thread = threading.get_ident()

    def stand_in(original: Callable[..., Any]) -> Callable[..., Any]:
        def either(*args: Any, **kwargs: Any) -> Any:
            return (primitive if threading.get_ident() == thread else original)(*args, **kwargs)

        return either

    return stand_in


class _Lowering(PrimitiveLeafPlugin, ABC):  # type: ignore[misc]  # jax2onnx is not typed
    """A function of `layers` as a primitive of jax2onnx."""

    _PRIM: ClassVar[Primitive]
    _ABSTRACT_EVAL_BOUND: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Put the nodes into the graph and return the value that they end in."""

    def lower(self, ctx: Any, eqn: Any) -> None:
        """Put the nodes into the graph, and say what shape comes out."""
        result = self.build(_Nodes(ctx), eqn, *(ctx.get_value_for_var(var) for var in eqn.invars))
        result.type = ctx.get_value_for_var(eqn.invars[0]).type
        result.shape = ir.Shape([size if isinstance(size, int) else str(size) for size in eqn.outvars[0].aval.shape])
        ctx.bind_value_for_var(eqn.outvars[0], result)


@register_primitive(jaxpr_primitive="ntt.attend")
class Attend(_Lowering):
    """`layers.attend`."""

    _PRIM = Primitive("ntt.attend")

    @staticmethod
    def abstract_eval(query: ShapedArray, *others: ShapedArray, num_heads: int) -> ShapedArray:
        """Return what comes out: the shape of the queries."""
        return ShapedArray(query.shape, query.dtype)

    @classmethod
    def binding_specs(cls) -> list[AssignSpec | MonkeyPatchSpec]:
        """Let the primitive stand for the function while jax2onnx traces."""

        def attend(*arrays: Any, num_heads: int) -> Any:
            return _bind(cls._PRIM, *arrays, num_heads=num_heads)

        return [MonkeyPatchSpec(target=layers, attr="attend", make_value=_while_tracing(attend))]

    @staticmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Use the standard operators where the opset has them."""
        heads = eqn.params["num_heads"]
        width = int(eqn.invars[0].aval.shape[-1]) // heads
        if nodes.opset < _ATTENTION_SINCE:
            return _attend_in_parts(nodes, inputs, heads=heads, width=width)
        query, key, value, *rope = inputs
        if rope:
            query, key = (
                nodes.RotaryEmbedding(tokens, *rope, num_heads=heads, interleaved=0) for tokens in (query, key)
            )
        return nodes.Attention(query, key, value, q_num_heads=heads, kv_num_heads=heads, scale=1 / math.sqrt(width))


def _attend_in_parts(nodes: _Nodes, inputs: tuple[ir.Value, ...], *, heads: int, width: int) -> Any:
    by_head = nodes.constant([0, 0, heads, width])
    query, key, value = (nodes.Transpose(nodes.Reshape(tokens, by_head), perm=[0, 2, 1, 3]) for tokens in inputs[:3])
    query = nodes.Mul(query, nodes.constant(1 / math.sqrt(width)))
    if inputs[3:]:
        halves, across_heads = nodes.constant([width // 2, width // 2]), nodes.constant([1])
        cosines, sines = (nodes.Unsqueeze(values, across_heads) for values in inputs[3:])

        def turned(tokens: ir.Value) -> Any:
            first, second = nodes.Split(tokens, halves, axis=-1, outputs=2)
            return nodes.Concat(
                nodes.Sub(nodes.Mul(first, cosines), nodes.Mul(second, sines)),
                nodes.Add(nodes.Mul(second, cosines), nodes.Mul(first, sines)),
                axis=-1,
            )

        query, key = turned(query), turned(key)
    weights = nodes.Softmax(nodes.MatMul(query, nodes.Transpose(key, perm=[0, 1, 3, 2])), axis=-1)
    mixed = nodes.Transpose(nodes.MatMul(weights, value), perm=[0, 2, 1, 3])
    return nodes.Reshape(mixed, nodes.constant([0, 0, heads * width]))


@register_primitive(jaxpr_primitive="ntt.rope_angles")
class RotaryAngles(_Lowering):
    """`layers.rope_angles`."""

    _PRIM = Primitive("ntt.rope_angles")

    @staticmethod
    def abstract_eval(
        periods: ShapedArray, pixel_values: ShapedArray, *, patch_size: int, num_prefix: int
    ) -> ShapedArray:
        """Return what comes out: an angle for every token and pair of channels."""
        height, width = pixel_values.shape[2:]
        count = num_prefix + (height // patch_size) * (width // patch_size)
        return ShapedArray((count, 2 * periods.shape[0]), np.float32)

    @classmethod
    def binding_specs(cls) -> list[AssignSpec | MonkeyPatchSpec]:
        """Let the primitive stand for the function while jax2onnx traces."""

        def rope_angles(*arrays: Any, **parameters: int) -> Any:
            return _bind(cls._PRIM, *arrays, **parameters)

        return [MonkeyPatchSpec(target=layers, attr="rope_angles", make_value=_while_tracing(rope_angles))]

    @staticmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Take the sizes from the image itself, in the order of operations of the function."""
        periods, pixels = inputs
        quarter = int(eqn.invars[0].aval.shape[0])
        waves = nodes.Reshape(periods, nodes.constant([1, 1, quarter]))
        patch = nodes.constant([eqn.params["patch_size"]])
        sides = [nodes.Div(nodes.Shape(pixels, start=axis, end=axis + 1), patch) for axis in (2, 3)]
        grid = nodes.Concat(*sides, nodes.constant([quarter]), axis=0)
        angles = []
        for side, shape in zip(sides, ([-1, 1, 1], [1, -1, 1]), strict=True):
            places = nodes.Range(nodes.constant(0), nodes.Squeeze(side), nodes.constant(1))
            places = nodes.Cast(places, to=ir.DataType.FLOAT)
            whole = nodes.Div(nodes.Add(places, nodes.constant(0.5)), nodes.Cast(side, to=ir.DataType.FLOAT))
            centres = nodes.Sub(nodes.Mul(whole, nodes.constant(2.0)), nodes.constant(1.0))
            turns = nodes.Mul(nodes.Reshape(centres, nodes.constant(shape)), nodes.constant(2 * math.pi))
            angles.append(nodes.Expand(nodes.Div(turns, waves), grid))
        turned = nodes.Reshape(nodes.Concat(*angles, axis=2), nodes.constant([-1, 2 * quarter]))
        still = nodes.Expand(nodes.constant(0.0), nodes.constant([eqn.params["num_prefix"], 2 * quarter]))
        return nodes.Concat(still, turned, axis=0)


@register_primitive(jaxpr_primitive="ntt.reshaped")
class Reshaped(_Lowering):
    """`layers.reshaped`."""

    _PRIM = Primitive("ntt.reshaped")

    @staticmethod
    def abstract_eval(values: ShapedArray, *like: ShapedArray, shape: tuple[Any, ...]) -> ShapedArray:
        """Return what comes out."""
        return ShapedArray(shape, values.dtype)

    @classmethod
    def binding_specs(cls) -> list[AssignSpec | MonkeyPatchSpec]:
        """Let the primitive stand for the function while jax2onnx traces."""

        def reshaped(values: Any, shape: tuple[Any, ...], like: Any = None) -> Any:
            return _bind(cls._PRIM, values, *([] if like is None else [like]), shape=tuple(shape))

        return [MonkeyPatchSpec(target=layers, attr="reshaped", make_value=_while_tracing(reshaped))]

    @staticmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Copy sizes that stay in place, infer one that is not known, and take more from the array that tells them."""
        values, *like = inputs
        shape, before = eqn.params["shape"], eqn.invars[0].aval.shape
        known = [isinstance(size, int) for size in shape]
        if like and known.count(False) > 1:
            if tuple(shape) == tuple(eqn.invars[1].aval.shape):
                return nodes.Reshape(values, nodes.Shape(like[0]))
            unknown = len(known) - known[::-1].index(False)
            sizes = nodes.Shape(like[0], start=0, end=unknown)
            if known[unknown:]:
                sizes = nodes.Concat(sizes, nodes.constant(list(shape[unknown:])), axis=0)
            return nodes.Reshape(values, sizes)
        in_place = [size == old for size, old in zip(shape, before, strict=False)] + [False] * len(shape)
        inferred = [
            size for size, known_, stays in zip(shape, known, in_place, strict=False) if not known_ and not stays
        ]
        if len(inferred) > 1:
            # Those that stood elsewhere are looked up there, which leaves one.
            places = {str(size): axis for axis, size in enumerate(before)}
            sizes = [
                nodes.Shape(values, start=places[str(size)], end=places[str(size)] + 1)
                if str(size) in places
                else nodes.constant([size if is_known else -1])
                for size, is_known in zip(shape, known, strict=True)
            ]
            return nodes.Reshape(values, nodes.Concat(*sizes, axis=0))
        target = [
            size if is_known else 0 if stays else -1
            for size, is_known, stays in zip(shape, known, in_place, strict=False)
        ]
        return nodes.Reshape(values, nodes.constant(target))


@register_primitive(jaxpr_primitive="ntt.repeated")
class Repeated(_Lowering):
    """`layers.repeated`."""

    _PRIM = Primitive("ntt.repeated")

    @staticmethod
    def abstract_eval(values: ShapedArray, like: ShapedArray) -> ShapedArray:
        """Return what comes out."""
        return ShapedArray((like.shape[0], *values.shape[1:]), values.dtype)

    @classmethod
    def binding_specs(cls) -> list[AssignSpec | MonkeyPatchSpec]:
        """Let the primitive stand for the function while jax2onnx traces."""

        def repeated(values: Any, like: Any) -> Any:
            return _bind(cls._PRIM, values, like)

        return [MonkeyPatchSpec(target=layers, attr="repeated", make_value=_while_tracing(repeated))]

    @staticmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Expand the first axis by the other array's."""
        values, like = inputs
        ones = [1] * (len(eqn.invars[0].aval.shape) - 1)
        return nodes.Expand(values, nodes.Concat(nodes.Shape(like, start=0, end=1), nodes.constant(ones), axis=0))


@register_primitive(jaxpr_primitive="ntt.matmul")
class MatrixProduct(_Lowering):
    """`layers.matmul`."""

    _PRIM = Primitive("ntt.matmul")

    @staticmethod
    def abstract_eval(left: ShapedArray, right: ShapedArray) -> ShapedArray:
        """Return what comes out."""
        return ShapedArray((*left.shape[:-1], right.shape[-1]), left.dtype)

    @classmethod
    def binding_specs(cls) -> list[AssignSpec | MonkeyPatchSpec]:
        """Let the primitive stand for the function while jax2onnx traces."""

        def matmul(left: Any, right: Any) -> Any:
            return _bind(cls._PRIM, left, right)

        return [MonkeyPatchSpec(target=layers, attr="matmul", make_value=_while_tracing(matmul))]

    @staticmethod
    def build(nodes: _Nodes, eqn: Any, *inputs: ir.Value) -> Any:
        """Use the operator of the same meaning."""
        return nodes.MatMul(*inputs)
