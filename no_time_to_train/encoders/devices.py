"""Where models run."""

from typing import Any

import torch

from no_time_to_train.errors import ConfigError


def checked_device(device: Any) -> torch.device:
    """Return a device that is there and holds values.

    Args:
        device: Its name, such as `cpu` or `cuda:1`, or a `torch.device`.

    Raises:
        ConfigError: There is no such device.
    """
    remedy = "cpu always works"
    if not isinstance(device, str | torch.device):
        raise ConfigError(f"device is {device!r:.60}, expected a name such as cpu", remedy=remedy)
    try:
        chosen = torch.device(device)
        # The device meta takes models, and computes nothing.
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(f"device {device}: {lines[0]}", remedy=remedy) from error
    return chosen
