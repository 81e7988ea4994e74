"""`ntt info`."""

import json as json_module
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from no_time_to_train import __version__
from no_time_to_train.io.messages import EXTRAS
from no_time_to_train.io.paths import without_home
from no_time_to_train.io.redact import printable

_LIBRARIES = (
    "numpy",
    "onnxruntime",
    "torch",
    "torchvision",
    "transformers",
    "lightning",
    "jax",
    "equinox",
    "jax2onnx",
    "pillow",
    "huggingface-hub",
)


def info(*, json: bool = False) -> None:
    """Tell what is installed and at hand: versions, devices, extras, weights. Add it to a bug report.

    Args:
        json: Print JSON.
    """
    found = _collect()
    if json:
        print(json_module.dumps(found, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {text}" for key, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(value) or "none"
        print(printable(f"{name:<16} {value}"))


def _collect() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "no_time_to_train": __version__,
        "python": f"{platform.python_version()} ({without_home(sys.executable)})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available",
        "libraries": {name: installed for name in _LIBRARIES if (installed := _version(name)) is not None},
        "extras": _extras(),
        "ONNX Runtime on": _providers(),
        "torch on": _torch_devices(),
        "weights": _weights(Path("checkpoints")),
        "Hub cache": _hub_cache(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras() -> list[str]:
    """Return the extras of which every library is installed."""
    needs: dict[str, list[str]] = {}
    for module, extra in EXTRAS.items():
        needs.setdefault(extra, []).append(module)
    return sorted(extra for extra, modules in needs.items() if all(find_spec(module) for module in modules))


def _providers() -> list[str]:
    import onnxruntime

    from no_time_to_train.runtime.onnx_session import PROVIDERS

    available = onnxruntime.get_available_providers()
    return [name for name, (provider, _) in PROVIDERS.items() if provider in available]


def _torch_devices() -> list[str]:
    if find_spec("torch") is None:
        return []
    import torch

    cuda = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _weights(root: Path) -> list[str]:
    """Return the folders and files of weights in `checkpoints/`, with their sizes."""
    if not root.is_dir():
        return []
    found = []
    for path in sorted(root.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        found.append(f"{path.name} ({size / 1e6:.1f} MB)")
    return found


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{without_home(str(folder))} ({size / 1e6:.1f} MB)"
