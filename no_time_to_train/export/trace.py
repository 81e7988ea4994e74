"""From an Equinox encoder without values to an ONNX graph whose weights are inputs still."""

import functools
import importlib
import os
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import onnx_ir as ir
from jax import lax
from jax.core import ShapedArray
from jax.export import symbolic_shape

import no_time_to_train.export.lowering  # noqa: F401  # registers itself with jax2onnx
from no_time_to_train.export.tidy import tidy
from no_time_to_train.jax_models.layers import Tap
from no_time_to_train.jax_models.load import EqxEncoder, leaf_names

PIXEL_VALUES = "pixel_values"
LAST_HIDDEN_STATE = "last_hidden_state"
POOLER_OUTPUT = "pooler_output"
_EQUINOX_PLUGINS = tuple(f"jax2onnx.plugins.equinox.eqx.nn.{name}" for name in ("linear", "layer_norm"))
# jax2onnx changes modules while it traces.
_TRACING = threading.Lock()
_STRICT = "JAX2ONNX_STRICT_OPTIMIZER_FAILURES"
_FLAG = "_already_imported_plugins"


@dataclass(frozen=True)
class Sizes:
    """All of a model that its graph depends on, and no values: graphs are kept by it.

    Tracing a large model takes many seconds, and the exports of its precisions, or of its checkpoints, have one graph.

    Attributes:
        tree: Its structure, with its settings.
        leaves: Their shapes and dtypes.
    """

    tree: jax.tree_util.PyTreeDef
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @classmethod
    def of(cls, model: eqx.Module) -> Self:
        """Return those of a model."""
        leaves, tree = jax.tree_util.tree_flatten(model)
        shapes = (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)  # type: ignore[no-untyped-call] # of JAX
        return cls(tree, tuple(shapes))

    def model(self) -> Any:
        """Build the model without values."""
        return jax.tree_util.tree_unflatten(self.tree, self.leaves)


def trace_encoder(
    model: EqxEncoder, *, image_size: tuple[int, int] | None = None, batch_size: int | None = None, opset: int = 23
) -> ir.Model:
    """Trace an encoder into a graph that takes the images, then every weight by the name of its leaf.

    Args:
        model: Its leaves need no values, see `abstract_encoder`; none is read.
        image_size: Height and width in pixels; any if None.
        batch_size: Images at a time; any if None.
        opset: Of ONNX. From 23 on attention is one operator.

    Returns:
        A graph with the inputs `pixel_values` (batch, 3, height, width) and those of the weights that it uses, and the
        outputs `last_hidden_state` (batch, tokens, D) and `pooler_output` (batch, D), in float32. Values at the end of
        a stage have its name, such as `blocks.0.attn_raw`; see the models' `tokens`.
    """
    return encoder_graph(Sizes.of(model), image_size, batch_size, opset).clone()


@functools.lru_cache(maxsize=4)
def encoder_graph(sizes: Sizes, image_size: tuple[int, int] | None, batch_size: int | None, opset: int) -> ir.Model:
    """Trace an encoder of these sizes, see `trace_encoder`; whoever changes the graph does so to a copy."""
    model: EqxEncoder = sizes.model()
    patch, dim = model.architecture.patch_size, model.architecture.embed_dim
    # What a size must be for the sizes after each layer to be known to be positive.
    batch, rows, columns = symbolic_shape("batch, h, w", constraints=["h >= 1", "w >= 1"])
    size = (patch * rows, patch * columns) if image_size is None else image_size
    pixels = ShapedArray((batch if batch_size is None else batch_size, 3, *size), jnp.float32)

    def encode(filled: EqxEncoder, tap: Tap, pixel_values: jax.Array) -> tuple[jax.Array, ...]:
        tokens = filled.tokens(pixel_values, tap)
        return tokens, lax.squeeze(lax.slice_in_dim(tokens, 0, 1, axis=1), (1,))

    traced = trace(encode, model, {PIXEL_VALUES: pixels}, (LAST_HIDDEN_STATE, POOLER_OUTPUT), opset=opset)
    _name_sizes(traced, image_size, batch_size, dim)
    return traced


def trace(
    function: Callable[..., tuple[jax.Array, ...]],
    model: eqx.Module,
    inputs: Mapping[str, ShapedArray],
    outputs: Sequence[str],
    *,
    opset: int,
) -> ir.Model:
    """Trace a function of a model into a graph that takes inputs, then the weights that it uses by their leaves' names.

    Args:
        function: Takes the model, a tap and the inputs, and returns the outputs.
        model: Its leaves need no values; none is read.
        inputs: Shape and dtype of each, by name.
        outputs: Their names.
        opset: Of ONNX.

    Returns:
        A graph whose values at the end of a stage, of which the tap is told, have its name.
    """
    from jax2onnx import to_onnx

    names, (leaves, tree) = leaf_names(model), jax.tree_util.tree_flatten(model)
    stages: dict[str, jax.Array] = {}

    def traceable(*values: jax.Array) -> tuple[jax.Array, ...]:
        stages.clear()
        filled = jax.tree_util.tree_unflatten(tree, values[len(inputs) :])
        found = function(filled, stages.__setitem__, *values[: len(inputs)])
        return *found, *stages.values()

    with _TRACING, _needed_plugins():
        traced: ir.Model = to_onnx(
            traceable,
            [*inputs.values(), *leaves],
            opset=opset,
            return_mode="ir",
            input_names=[*inputs, *names],
            normalization_mode="prefer_native",
        )
    for output, name in zip(traced.graph.outputs, (*outputs, *stages), strict=True):
        output.name = name
    while len(traced.graph.outputs) > len(outputs):  # deleting a slice leaves them marked as outputs
        traced.graph.outputs.pop()
    tidy(traced, set(names))
    for value in list(traced.graph.inputs)[len(inputs) :]:
        if not value.uses():
            traced.graph.inputs.remove(value)
    return traced


@contextmanager
def _needed_plugins() -> Iterator[None]:
    """Spare jax2onnx importing all of its plugins: those of other frameworks build and compile their examples.

    It takes 1 second instead of 5, and a hundred megabytes less. A plugin that is missing then is an error as the graph
    is traced, which says so. A failure of jax2onnx's optimizer is one too, instead of a graph that is half optimised.
    """
    plugin_system = importlib.import_module("jax2onnx.plugins.plugin_system")
    package = importlib.import_module("jax2onnx.plugins.jax")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in [*names, *_EQUINOX_PLUGINS]:
        importlib.import_module(name)
    # A version of jax2onnx without this flag imports the others too.
    before, strict = getattr(plugin_system, _FLAG, False), os.environ.get(_STRICT)
    setattr(plugin_system, _FLAG, True)
    os.environ[_STRICT] = "1"
    try:
        yield
    finally:
        setattr(plugin_system, _FLAG, before)
        del os.environ[_STRICT]
        if strict is not None:
            os.environ[_STRICT] = strict


def _name_sizes(traced: ir.Model, image_size: tuple[int, int] | None, batch_size: int | None, dim: int) -> None:
    """Give the sizes that are not known the names that other tools give them."""
    batch = "batch" if batch_size is None else batch_size
    tokens: int | str = "tokens"
    states, pooled = traced.graph.outputs
    if batch_size is not None and image_size is not None and states.shape is not None and states.shape.is_static():
        tokens = states.shape.numpy()[1]
    traced.graph.inputs[0].shape = ir.Shape([batch, 3, *(image_size or ("height", "width"))])
    states.shape, pooled.shape = ir.Shape([batch, tokens, dim]), ir.Shape([batch, dim])
