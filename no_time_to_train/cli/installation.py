"""`ntt info` and `ntt setup`: what is installed and at hand, and real models in one command."""

import json as json_module
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from no_time_to_train import __version__
from no_time_to_train.configs.encoders import ENCODER_CONFIGS, weights_at_hand
from no_time_to_train.configs.recommended import LARGE, SMALL, Pair, recommended_pair
from no_time_to_train.configs.sam2_releases import SAM2_FILES
from no_time_to_train.configs.shipped import weights_folder
from no_time_to_train.errors import ConfigError
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
        "weights": _weights(weights_folder()),
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
    """Return the folders and files of weights, with their sizes."""
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


_LICENSES = {"encoder": "DINOv3 License (Meta)", "sam2": "Apache-2.0"}


def setup(*, yes: bool = False, large: bool | None = None, check: bool = True) -> None:
    """Fetch an encoder and a SAM2 for real images, try them, and take them from then on where no models are named.

    DINOv3 comes from timm's copies on the Hub, SAM 2.1 from Meta's public address; no account is needed. What was
    begun goes on where it stopped.

    Args:
        yes: Fetch without asking.
        large: The large pair, dinov3_base and sam2.1_hiera_base_plus, or the small one, dinov3_small_plus and
            sam2.1_hiera_tiny; by this machine's memory and GPU if not given.
        check: Try the models on an image of the demo; torch is needed for it.
    """
    pair = _chosen(large)
    entry = ENCODER_CONFIGS[pair.encoder]
    if pair.is_at_hand:
        print(f"{pair.encoder} and {pair.sam2} are in {without_home(str(weights_folder()))}")
    else:
        _announce(pair)
        if not yes:
            _ask()
        _fetch(pair)
    from no_time_to_train.weights.hub.manifest import check_folder

    found = weights_at_hand(entry)
    assert found is not None
    report = check_folder(found)
    print(f"{without_home(str(found))}: whole, {report.encoder or report.description}")
    print(f"{without_home(str(pair.sam2_weights))}: whole, {pair.sam2}")
    if check:
        _try(pair)
    print("from now on ntt predict and Segmenter() take these models where none are named")


def _chosen(large: bool | None) -> Pair:
    if large is not None:
        return LARGE if large else SMALL
    import psutil

    gpu = False
    if find_spec("torch") is not None:
        import torch

        gpu = torch.cuda.is_available()
    return recommended_pair(psutil.virtual_memory().available, gpu=gpu)


def _announce(pair: Pair) -> None:
    """Say what will be fetched: from where, how large, under which license."""
    from no_time_to_train.weights.http.download import Retries
    from no_time_to_train.weights.hub.sources import plan_hub, plan_link

    encoder = plan_hub(pair.encoder, source="timm", revision=None, retries=Retries())
    sam2 = plan_link(SAM2_FILES[pair.sam2].url, retries=Retries())
    print(f"to fetch into {without_home(str(weights_folder().resolve()))}:")
    print(f"  {pair.encoder}: {encoder.size / 1e6:,.0f} MB from {encoder.source}, {_LICENSES['encoder']}")
    print(f"  {pair.sam2}: {sam2.size / 1e6:,.0f} MB from {sam2.source}, {_LICENSES['sam2']}")


def _ask() -> None:
    """Ask whether to go on.

    Raises:
        ConfigError: Nobody can answer, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked whether to fetch these", remedy="give --yes")
    answer = input("fetch them? [y/N] ").strip().lower()
    if answer not in ("y", "yes"):
        raise ConfigError("nothing was fetched", remedy="answer y, or give --yes")


def _fetch(pair: Pair) -> None:
    from no_time_to_train.weights.hub.fetch import fetch

    entry = ENCODER_CONFIGS[pair.encoder]
    if weights_at_hand(entry) is None:
        fetch(pair.encoder, source="timm")
    fetch(pair.sam2)


def _try(pair: Pair) -> None:
    """Find something in an image of the demo with the models, so that what does not fit is known now."""
    from no_time_to_train.cli.predictor import build_segmenter
    from no_time_to_train.configs.pipeline import MatcherConfig
    from no_time_to_train.data.synthetic.dataset import write_shapes

    with tempfile.TemporaryDirectory() as folder:
        paths = write_shapes(Path(folder), shots=1, num_targets=1)
        segmenter = build_segmenter(MatcherConfig.from_settings(**pair.settings()), "cpu", "torch")
        segmenter.add_references(paths.references_json, paths.image_dir)
        target = next((paths.image_dir / "targets").iterdir())
        found = segmenter.predict(target)
    print(f"tried on an image of the demo: {len(found.scores)} instances")
