"""Linear layers by oneDNN on processors that are not Intel's, where MKL, which torch uses, is slower (ADR 16)."""

import platform
import re
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_CPU_INFO = Path("/proc/cpuinfo")


class OneDnnLinear(nn.Linear):
    """A linear layer that oneDNN multiplies where it can: without gradients, in float32, on a CPU."""

    def forward(self, input: Float[Tensor, "*N K"]) -> Float[Tensor, "*N M"]:
        """Multiply and add, as `torch.nn.Linear` does up to rounding."""
        if _is_plain(input) and type(self.weight) is nn.Parameter and _is_plain(self.weight):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
            return product
        return F.linear(input, self.weight, self.bias)


def use_onednn(model: nn.Module) -> None:
    """Let oneDNN multiply in a model's linear layers, where that is faster; weights and their names stay.

    Args:
        model: Changed in place, wherever it is: a layer that is moved to a GPU is computed there as before.
    """
    if not prefers_onednn():
        return
    for part in model.modules():
        if type(part) is nn.Linear:
            part.__class__ = OneDnnLinear


@cache
def prefers_onednn() -> bool:
    """Return whether oneDNN multiplies float32 matrices faster than MKL on this machine.

    It is decided by the processor's maker, not by a measurement, so that all runs on a machine give the same bits.
    """
    mkl, mkldnn = torch.backends.mkl, torch.backends.mkldnn
    has_both = mkl.is_available() and mkldnn.is_available()  # type: ignore[no-untyped-call] # torch declares no type
    has_op = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_both and has_op and _maker() == "AuthenticAMD"


def _maker() -> str:
    """Return the processor's maker as the processor names it, or an empty text if it cannot be known."""
    if _CPU_INFO.is_file():
        found = re.search(r"^vendor_id\s*:\s*(\S+)", _CPU_INFO.read_text(), re.MULTILINE)
        return found[1] if found else ""
    # Windows has it at the end: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD".
    return platform.processor().rpartition(" ")[2]


def _is_plain(values: Tensor) -> bool:
    return (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and values.numel() > 0
    )
