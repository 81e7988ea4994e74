"""Computations whose kernels a GPU replays, where launching them one by one takes longer than they run.

At 16 bits and one image, half of an encoder's time is Python's: DINOv3-L at 592 px takes 11.5 ms by itself and 5.5 ms
as a CUDA graph, SAM2-L 17.0 and 12.8 (H200, `python -m benchmarks.gpu --parts networks`). In float32, and for more
images at once, the difference is under 4 percent, and nothing is captured.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # as yet without a public name

log = logging.getLogger(__name__)

# How often inputs of the same shapes are met before a graph is captured, and how many graphs are: each keeps memory.
_SEEN, _GRAPHS = 2, 4


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]
    structure: Any


class Replayed:
    """A computation with a frozen network in evaluation mode, replayed from CUDA graphs where that is faster.

    Results are bitwise those of the computation itself. It may be called from several threads.

    Args:
        compute: Takes and returns tensors, alone or in tuples, lists, dicts and named tuples, next to other values,
            which are the same at every call. It does not wait for the device.
        network: The network whose weights it uses. If they are moved or replaced, graphs are captured anew.
        is_worth_it: Returns whether these inputs, on a GPU, take longer to launch than to compute.
    """

    def __init__(
        self, compute: Callable[[Any], Any], network: nn.Module, is_worth_it: Callable[[nn.Module, Any], bool]
    ) -> None:
        self._compute, self._network, self._is_worth_it = compute, network, is_worth_it
        self._lock = threading.Lock()
        self._graphs: dict[tuple[torch.Size, ...], _Captured] = {}
        self._seen: dict[tuple[torch.Size, ...], int] = {}
        self._state: object = None
        self._pool: Any = None
        self._works = True

    def __getstate__(self) -> dict[str, object]:
        """Leave graphs and lock out of copies: their weights are elsewhere."""
        return {"compute": self._compute, "network": self._network, "is_worth_it": self._is_worth_it}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin without graphs."""
        self.__init__(**state)  # type: ignore[misc]  # as a new one

    def __call__(self, given: Any) -> Any:
        """Compute."""
        leaves, structure = pytree.tree_flatten(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not (self._works and all(one.is_cuda for one in tensors) and self._is_worth_it(self._network, given)):
            return self._compute(given)
        with self._lock:
            captured = self._captured(tensors, leaves, structure)
            if captured is None:
                return self._compute(given)
            torch._foreach_copy_(captured.inputs, tensors)
            captured.graph.replay()
            # The next replay writes over the outputs.
            results = [torch.empty_like(output) for output in captured.outputs]
            torch._foreach_copy_(results, captured.outputs)
        return pytree.tree_unflatten(_merged(results, captured.structure.leaves), captured.structure.spec)

    def _captured(self, tensors: Sequence[Tensor], leaves: Sequence[Any], structure: Any) -> _Captured | None:
        weights = (weight.data_ptr() for weight in self._network.parameters())
        state = (tensors[0].device, *(one.dtype for one in tensors), *weights)
        if state != self._state:
            self._graphs, self._seen, self._state, self._pool = {}, {}, state, None
        shapes = tuple(one.shape for one in tensors)
        if shapes in self._graphs or len(self._graphs) == _GRAPHS:
            return self._graphs.get(shapes)
        self._seen[shapes] = self._seen.get(shapes, 0) + 1
        if self._seen[shapes] <= _SEEN:
            # Also what a graph must not hold: kernels that choose themselves, and workspaces, at their first calls.
            return None
        try:
            self._graphs[shapes] = self._capture(tensors, leaves, structure)
        except RuntimeError as error:
            log.info("CUDA cannot replay %s: %s", type(self._network).__name__, str(error).splitlines()[0])
            self._works = False
        return self._graphs.get(shapes)

    def _capture(self, tensors: Sequence[Tensor], leaves: Sequence[Any], structure: Any) -> _Captured:
        inputs, graph = [one.clone() for one in tensors], torch.cuda.CUDAGraph()
        given = pytree.tree_unflatten(_merged(inputs, leaves), structure)
        # One replay ends before the next begins, and its outputs are copied: all graphs can have the same memory.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads, such as those that load images, go on talking to the device.
        device, mode = inputs[0].device, "thread_local"
        with torch.cuda.device(device), torch.cuda.graph(graph, self._pool, capture_error_mode=mode):
            outputs, spec = pytree.tree_flatten(self._compute(given))
        return _Captured(graph, inputs, [one for one in outputs if isinstance(one, Tensor)], _Structure(outputs, spec))


class _Structure(NamedTuple):
    leaves: list[Any]
    spec: Any


def _merged(tensors: Sequence[Tensor], leaves: Sequence[Any]) -> list[Any]:
    """Put tensors where leaves are tensors."""
    following = iter(tensors)
    return [next(following) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def is_one_half_image(network: nn.Module, pixels: Tensor) -> bool:
    """Return whether it is one image, (1, 3, H, W), for a network in 16 bits.

    Not under autocast, which would keep its casts of a capture for later.
    """
    weights = next(network.parameters(), None)
    half = weights is not None and weights.dtype.itemsize == 2
    return half and len(pixels) == 1 and not torch.is_autocast_enabled("cuda")
