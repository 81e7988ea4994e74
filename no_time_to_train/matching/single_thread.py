"""Small steps run fastest on one CPU thread."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch's CPU operators on one thread, and on as many as before afterwards.

    Steps of a fraction of a millisecond gain next to nothing from a second thread, and where other work keeps the
    cores busy each of them waits for that thread to be scheduled.

    Only the calling thread is affected. `torch.set_num_threads` is not used, because it also sets the number with
    which every new thread of the process starts.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.get_num_threads()  # sets this thread's number on its first use of torch, which must not happen inside
    before = _mkl()(1)
    try:
        with _openmp().limit(limits=1):
            yield
    finally:
        _mkl()(before)


@cache
def _openmp() -> Any:
    controller: Any = ThreadpoolController  # it has no types
    return controller().select(user_api="openmp")


@cache
def _mkl() -> Callable[[int], int]:
    """Return MKL's function that sets the calling thread's number for its products, and returns the one before.

    After `torch.set_num_threads` MKL no longer follows OpenMP. Torch contains it, where threadpoolctl does not see it.
    """
    try:
        library = ctypes.CDLL(str(Path(str(sys.modules["torch"].__file__)).parent / "lib" / "libtorch_cpu.so"))
        setter: Callable[[int], int] = library.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):  # another system, or a build without MKL
        return lambda _number: 0
    return setter
