"""Compare the speed of every stage with the limit of this machine: the highest rate that any library reaches.

``python -m benchmarks.roofline [--repeats 3] [--presets exact fast] [--onnx] [--json FILE]``

First the rates: matrix products in float32 by every library at hand, in bfloat16 by torch, in int8 by ONNX Runtime;
copying, exponentials and GELU. The highest of a kind is the machine's limit, whichever library reaches it. Then both
presets of `benchmarks.speed`, stage by stage: the floating-point operations that its products take, its time, and the
share of the limit that this is. `--onnx` measures the encoder in ONNX Runtime too, which takes a minute to export.
"""

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import PRESETS, STAGES, Size, at, build, draw_image, medians, ours, read
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG

# Rows, shared dimension, columns: a large product, one of DINOv3-L's, SAM2's neck, a prompt's upscaling.
SHAPES = ((4096, 4096, 4096), (1374, 1024, 4096), (4096, 256, 256), (16384, 64, 128))
_BATCHED = ((16, 64, 128, 1024), (16, 256, 128, 1024), (16, 1024, 64, 128))
_ROUNDS = 9
_ELEMENTS = 1 << 24


def best_of(ways: dict[str, Callable[[], Any]], rounds: int = _ROUNDS) -> dict[str, float]:
    """Return the least seconds of each way, measured in turn."""
    seconds = dict.fromkeys(ways, float("inf"))
    for index in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if index:
                seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return seconds


def product_session(rows: int, shared: int, columns: int, *, int8: bool = False) -> Callable[[], Any]:
    """Return a product of a matrix with a constant one in ONNX Runtime."""
    generator = np.random.default_rng(0)
    if int8:
        kinds, operator = (TensorProto.UINT8, TensorProto.INT32), "MatMulInteger"
        weight: np.ndarray = generator.integers(-127, 127, (shared, columns)).astype(np.int8)
        given: np.ndarray = generator.integers(0, 255, (rows, shared)).astype(np.uint8)
    else:
        kinds, operator = (TensorProto.FLOAT, TensorProto.FLOAT), "MatMul"
        weight = generator.standard_normal((shared, columns), dtype=np.float32)
        given = generator.standard_normal((rows, shared), dtype=np.float32)
    kind = TensorProto.INT8 if int8 else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], given.shape)],
        [helper.make_tensor_value_info("y", kinds[1], [rows, columns])],
        [helper.make_tensor("w", kind, weight.shape, weight.tobytes(), raw=True)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": given})


@torch.inference_mode()
def product_rates(rows: int, shared: int, columns: int) -> dict[str, float]:
    """Return the GFLOP/s of one product by each library and dtype."""
    given, weight = torch.randn(rows, shared), torch.randn(columns, shared)
    out = np.empty((rows, columns), np.float32)
    half = given.bfloat16(), weight.bfloat16()
    ways = {
        "torch": lambda: F.linear(given, weight),
        "NumPy": lambda: np.matmul(given.numpy(), weight.numpy().T, out=out),
        "ONNX Runtime": product_session(rows, shared, columns),
        "torch, bf16": lambda: F.linear(*half),
        "ONNX Runtime, int8": product_session(rows, shared, columns, int8=True),
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        ways["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], "")
    flops = 2 * rows * shared * columns
    return {name: flops / seconds / 1e9 for name, seconds in best_of(ways).items()}


@torch.inference_mode()
def batched_rates(batch: int, rows: int, shared: int, columns: int) -> dict[str, float]:
    """Return the GFLOP/s of several small products, as the prompt decoder has them."""
    one, other = torch.randn(batch, rows, shared), torch.randn(batch, shared, columns)
    out = np.empty((batch, rows, columns), np.float32)
    ways = {
        "torch": lambda: torch.bmm(one, other),
        "NumPy": lambda: np.matmul(one.numpy(), other.numpy(), out=out),
    }
    flops = 2 * batch * rows * shared * columns
    return {name: flops / seconds / 1e9 for name, seconds in best_of(ways).items()}


@torch.inference_mode()
def other_rates() -> dict[str, float]:
    """Return GB/s of copying (read and written), and billions of exponentials and exact GELUs a second."""
    values, target = torch.randn(_ELEMENTS), torch.empty(_ELEMENTS)
    ways: dict[str, Callable[[], Any]] = {
        "copy, GB/s": lambda: target.copy_(values),
        "exp, G/s": lambda: torch.exp(values, out=target),
        "GELU, G/s": lambda: F.gelu(values),
    }
    work = {"copy, GB/s": 8 * _ELEMENTS, "exp, G/s": _ELEMENTS, "GELU, G/s": _ELEMENTS}
    return {name: work[name] / seconds / 1e9 for name, seconds in best_of(ways).items()}


def limits_of(products: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the highest rate of float32, bfloat16 and int8 products, by any library at any shape."""
    found: dict[str, float] = {}
    for rates in products.values():
        for name, rate in rates.items():
            kind = name.rpartition(", ")[2] if ", " in name else "fp32"
            found[kind] = max(found.get(kind, 0.0), rate)
    return found


def _flops_of_onednn(given: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * int(np.prod(given)) * int(weight[0])


def _flops_added(_: Any, one: Any, other: Any, *__: Any, **___: Any) -> int:
    return 2 * int(np.prod(one)) * int(other[-1])


def _flops_by_vector(matrix: Any, _: Any, **__: Any) -> int:
    return 2 * int(np.prod(matrix))


def count_flops(run: Callable[[], Any]) -> float:
    """Count the floating-point operations of products, those in place and oneDNN's included.

    They are counted in this thread only, so that nothing may be done in others.
    """
    aten = torch.ops.aten
    known = {
        torch.ops.mkldnn._linear_pointwise: _flops_of_onednn,
        aten.addmm_: _flops_added,
        aten.baddbmm_: _flops_added,
        aten.mv: _flops_by_vector,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            run()
    finally:
        torch.set_num_threads(threads)
    return float(counter.get_total_flops())


@torch.inference_mode()
def stage_flops(baseline: Sam2MatchingBaseline_noAMG, path: Path) -> dict[str, float]:
    """Count the products of each stage that has any."""
    image = read(path)
    kept: dict[str, Any] = {}
    flops = {"encode": count_flops(lambda: kept.update(patches=baseline.encode(image)))}
    flops["embed"] = count_flops(lambda: kept.update(embedding=baseline.features.embeddings([image])[0]))
    flops["prompt"] = count_flops(lambda: baseline.proposer(kept["embedding"], kept["patches"], baseline.memory))
    return flops


def measure_preset(
    name: str, folder: Path, repeats: int, limits: dict[str, float]
) -> tuple[dict[str, dict[str, float]], str]:
    """Measure a preset's stages: seconds, GFLOP, the limit's seconds, and the share of the limit."""
    baseline, path = at(build(name), Size()), draw_image(folder, Size())
    ours(baseline, path, folder)
    seconds = medians([ours(baseline, path, folder)[0] for _ in range(repeats)])
    flops = stage_flops(baseline, path)
    kind = "bf16" if baseline.config.precision == "bf16" else "fp32"
    rows: dict[str, dict[str, float]] = {}
    for stage in (*STAGES, "all"):
        gflop = (sum(flops.values()) if stage == "all" else flops.get(stage, 0.0)) / 1e9
        # Prompts are decoded in float32 in every preset.
        least = sum(
            flops[part] / 1e9 / limits["fp32" if part == "prompt" else kind]
            for part in (flops if stage == "all" else [stage])
            if part in flops
        )
        rows[stage] = {
            "seconds": seconds[stage],
            "gflop": gflop,
            "limit": least,
            "share": least / seconds[stage] if least else float("nan"),
        }
    return rows, kind


def encoder_in_onnx(name: str, size: int, folder: Path, repeats: int) -> dict[str, float]:
    """Measure an encoder of random weights in ONNX Runtime and in torch, in turn: the least seconds of each."""
    from benchmarks.export import write_random
    from no_time_to_train.encoders.torch_encoder import build_encoder
    from no_time_to_train.export.onnx import export_onnx

    write_random(name, folder / name)
    export_onnx(name, folder / name, verify=False)
    engines = {
        "torch": build_encoder(name, folder / name, img_size=size),
        "ONNX Runtime": build_encoder(f"onnx:{folder / name}", img_size=size),
    }
    image = torch.rand(1, 3, size, size)

    def run(engine: Any) -> Callable[[], Any]:
        return lambda: engine.tokens(image)

    with torch.inference_mode():
        return best_of({kind: run(engine) for kind, engine in engines.items()}, repeats)


def processor() -> str:
    """Return the processor's name as it gives it, with what its products depend on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile") if f" {flag}" in text]
    return f"{named[1] if named else platform.processor()} ({', '.join(flags)}), {torch.get_num_threads()} threads"


def show(figures: dict[str, Any], console: Console) -> None:
    """Print rates and stages."""
    names = list(dict.fromkeys(name for rates in figures["products"].values() for name in rates))
    table = Table("product", *names, title=f"GFLOP/s; {figures['processor']}; torch {torch.__version__}")
    for shape, rates in figures["products"].items():
        table.add_row(shape, *(f"{rates[name]:.0f}" if name in rates else "" for name in names))
    console.print(table)
    console.print(", ".join(f"{name} {value:.1f}" for name, value in figures["others"].items()))
    console.print("limit: " + ", ".join(f"{kind} {value:.0f} GFLOP/s" for kind, value in figures["limits"].items()))
    for name, (rows, kind) in figures["presets"].items():
        table = Table("stage", "seconds", "GFLOP", "limit, s", "share of limit", title=f"{name}, {kind}")
        for stage, row in rows.items():
            share = "" if np.isnan(row["share"]) else f"{row['share']:.2f}"
            table.add_row(stage, f"{row['seconds']:.3f}", f"{row['gflop']:.0f}", f"{row['limit']:.3f}", share)
        console.print(table)
    for name, seconds in figures.get("engines", {}).items():
        console.print(f"{name}: " + ", ".join(f"{engine} {value:.2f} s" for engine, value in seconds.items()))


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds of the presets")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--onnx", nargs="*", metavar="ENCODER", help="encoders to measure in ONNX Runtime too")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(args)
    products = {"x".join(map(str, shape)): product_rates(*shape) for shape in SHAPES}
    products |= {f"{shape[0]} of {'x'.join(map(str, shape[1:]))}": batched_rates(*shape) for shape in _BATCHED}
    limits = limits_of(products)
    figures: dict[str, Any] = {
        "processor": processor(),
        "products": products,
        "others": other_rates(),
        "limits": limits,
        "presets": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.presets:
            figures["presets"][name] = measure_preset(name, Path(temporary), given.repeats, limits)
        if given.onnx:
            figures["engines"] = {
                f"{name} at 592 px": encoder_in_onnx(name, 592, Path(temporary), given.repeats) for name in given.onnx
            }
    show(figures, Console())
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
