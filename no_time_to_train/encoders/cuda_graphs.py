"""Networks whose kernels a GPU replays, where telling it each one takes longer than they run.

At 16 bits and one image, half of an encoder's time is Python's: DINOv3-L at 592 px takes 11.5 ms by itself and 5.5 ms
as a CUDA graph, SAM2-L 17.0 and 12.8 (H200, `python -m benchmarks.gpu --parts networks`). In float32, and for more
images at once, the difference is under 4 percent, and nothing is captured.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
# How often a shape is met before it is captured, and how many shapes are: each keeps memory of its own.
_SEEN, _SHAPES = 2, 4


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    results: Tensors


class Replayed:
    """A frozen network in evaluation mode, replayed from CUDA graphs where that is faster.

    Results are bitwise those of the network itself. It may be called from several threads.

    Args:
        compute: Runs the network on pixels (B, 3, H, W), without waiting for the device.
        network: Whose weights it uses. If they are moved or replaced, graphs are captured anew.
    """

    def __init__(self, compute: Callable[[Tensor], Tensors], network: nn.Module) -> None:
        self._compute, self._network = compute, network
        self._lock = threading.Lock()
        self._graphs: dict[torch.Size, _Captured] = {}
        self._seen: dict[torch.Size, int] = {}
        self._state: object = None
        self._works = True

    def __getstate__(self) -> dict[str, object]:
        """Leave graphs and lock out of copies: their weights are elsewhere."""
        return {"compute": self._compute, "network": self._network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin without graphs."""
        self.__init__(**state)  # type: ignore[misc]  # as a new one

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Tensors:
        """Run the network."""
        if not (pixels.is_cuda and len(pixels) == 1 and self._works and _is_half(self._network)):
            return self._compute(pixels)
        with self._lock:
            captured = self._captured(pixels)
            if captured is None:
                return self._compute(pixels)
            captured.pixels.copy_(pixels)
            captured.graph.replay()
            return tuple(result.clone() for result in captured.results)

    def _captured(self, pixels: Tensor) -> _Captured | None:
        state = (pixels.device, pixels.dtype, *(weights.data_ptr() for weights in self._network.parameters()))
        if state != self._state:
            self._graphs, self._seen, self._state = {}, {}, state
        shape = pixels.shape
        if shape in self._graphs or len(self._graphs) == _SHAPES:
            return self._graphs.get(shape)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        if self._seen[shape] <= _SEEN:
            # Also what a graph must not hold: kernels that choose themselves, and workspaces, at their first calls.
            return None
        try:
            self._graphs[shape] = self._capture(pixels)
        except RuntimeError as error:
            log.info("CUDA cannot replay %s: %s", type(self._network).__name__, str(error).splitlines()[0])
            self._works = False
        return self._graphs.get(shape)

    def _capture(self, pixels: Tensor) -> _Captured:
        static, graph = pixels.clone(), torch.cuda.CUDAGraph()
        # Other threads, such as those that load images, go on talking to the device.
        with torch.cuda.device(pixels.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = self._compute(static)
        return _Captured(graph, static, results)


def _is_half(network: nn.Module) -> bool:
    """Return whether the network's weights are in 16 bits; autocast would keep its casts of a capture for later."""
    weights = next(network.parameters(), None)
    return weights is not None and weights.dtype.itemsize == 2 and not torch.is_autocast_enabled("cuda")
