"""Parts of `benchmarks.gpu`: the machine, and what runs in a process of its own."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.timing import Bench

ROOT = Path(__file__).parents[2]


def machine(bench: Bench) -> dict[str, Any]:
    """The card, versions, settings of precision, and the rates by which everything else is judged."""
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if bench.is_gpu else "cpu",
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
    }
    side = bench.sizes.square
    for name, dtype, precision in (
        ("fp32", torch.float32, "highest"),
        ("TF32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        torch.set_float32_matmul_precision(precision)
        figures[f"{name}, TFLOP/s"] = 2e-9 * side**3 / bench.milliseconds(partial(torch.mm, a, b))
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(side**2 * (16 if bench.is_gpu else 1), device=bench.device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    figures["copy, GB/s"] = 1e-6 * moved / bench.milliseconds(lambda: target.copy_(source))
    return figures


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """The tests that need a GPU."""
    log = bench.out / "tests.log"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rA", "-p", "no:cacheprovider"]
    # Other versions of libraries than the pinned ones may warn of what these do not.
    command += ["-W", "default", "--durations=8"]
    if not bench.is_gpu:
        command += ["-k", "matching"]
    environment = {**os.environ, "NTT_TEST_DEVICE": bench.device.type}
    with log.open("w") as stream:
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=environment, timeout=bench.left - 5
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    lines = log.read_text().splitlines()
    told = [line for line in lines if line.startswith(("FAILED", "ERROR", "E   ")) or "Error" in line[:60]]
    return {"failed": status != 0, "summary": lines[-1] if lines else "", "told": "\n".join(told[:60]) + "\n"}


def onnx(bench: Bench) -> dict[str, Any]:
    """Return the version and the providers of ONNX Runtime."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return {"onnxruntime": onnxruntime.__version__, "providers": ", ".join(providers)}


def jax_port(bench: Bench) -> dict[str, Any]:
    """The tests of the Equinox port, with JAX on the device."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "pytest", "tests/jax_models", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "default", "-k", "metas_own_code and 64x64"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=bench.left - 5
        )
    except subprocess.TimeoutExpired:
        return {"failed": True, "told": f"not done after {bench.left - 5:.0f} s"}
    asked = "import jax; print(jax.devices(), jax.__version__)"
    devices = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=environment)
    return {
        "failed": done.returncode != 0,
        "devices": devices.stdout.strip(),
        "told": done.stdout[-2500:] if done.returncode else done.stdout.strip().splitlines()[-1],
    }
