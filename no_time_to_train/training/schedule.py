"""AdamW without decay where it does harm, and the schedule that trainings here share."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from no_time_to_train.training.distill.configs import OptimizerConfig


def warmup_cosine(warmup_steps: int, max_steps: int, *, final_share: float = 0.0) -> Callable[[int], float]:
    """Return the share of the peak at a step: a linear rise, times a cosine that falls from the first step to the last.

    Examples:
        >>> share = warmup_cosine(2, 10)
        >>> [round(share(step), 2) for step in (0, 1, 5, 10)]
        [0.5, 0.98, 0.5, 0.0]
    """

    def share(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, max_steps))))
        return rise * (final_share + (1 - final_share) * fall)

    return share


def build_adamw(module: nn.Module, config: OptimizerConfig, *, max_steps: int) -> dict[str, Any]:
    """Set up AdamW and its schedule as Lightning's `configure_optimizers` returns them.

    Args:
        module: Its trainable parameters. Norms, biases, LayerScale (all that have one axis) and tokens are not decayed.
        config: Rates and steps.
        max_steps: Steps of the whole training.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or name.endswith(("_token", "_tokens"))
            (others if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW([group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas)
    share = warmup_cosine(config.warmup_steps, max_steps, final_share=config.final_share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"}}
