"""Muon for the weight matrices of the blocks, AdamW for everything else, as one optimizer with one schedule."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from no_time_to_train.training.schedule import warmup_cosine

_NEVER_MATRICES = ("embed", "token")


class MuonWithAdamW(Optimizer):
    """Two optimizers that step together.

    Their parameter groups are this optimizer's groups, so that a schedule or a clipping of gradients sees them all.

    Args:
        matrices: Two-dimensional parameters, for Muon; its update is scaled to AdamW's size.
        others: All other parameters, for AdamW.
        learning_rate: Of Muon.
        adamw_learning_rate: Of AdamW.
        weight_decay: Of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        learning_rate: float,
        adamw_learning_rate: float,
        weight_decay: float = 0.05,
    ) -> None:
        muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = AdamW(others, lr=adamw_learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
        self.parts: tuple[Optimizer, ...] = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure once, then step both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return both states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up both states."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def build_optimizer(
    module: nn.Module, *, learning_rate: float, adamw_learning_rate: float, warmup_steps: int, max_steps: int
) -> dict[str, Any]:
    """Set up the optimizer and its schedule as Lightning's `configure_optimizers` returns them.

    Args:
        module: Its trainable parameters; matrices go to Muon but for embeddings, tokens and the very narrow.
        learning_rate: Of Muon at its peak.
        adamw_learning_rate: Of AdamW at its peak.
        warmup_steps: Steps of a linear rise, after which a cosine falls to zero at `max_steps`.
        max_steps: Steps of the whole training.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            narrow = parameter.ndim != 2 or min(parameter.shape) <= 4
            (others if narrow or any(word in name for word in _NEVER_MATRICES) else matrices).append(parameter)
    optimizer = MuonWithAdamW(matrices, others, learning_rate=learning_rate, adamw_learning_rate=adamw_learning_rate)
    schedule = LambdaLR(cast(Optimizer, optimizer), warmup_cosine(warmup_steps, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
