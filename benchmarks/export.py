"""What an export costs: seconds, memory, size; and what loading its file costs, beside torch.onnx's.

``python -m benchmarks.export [--encoders dinov3_small dinov3_7b] [--repeats 5] [--json FILE]`` prints, each measured in
processes of their own:

- the whole `ntt export`, its peak memory (VmHWM), and within it the part after imports: tracing, binding and writing
- for encoders that fit in memory: opening the file in ONNX Runtime, in turn with torch.onnx's file of the same weights,
  and the memory of its own (anonymous pages) that a session takes, prepacking on and off

Weights are random; those of encoders above 2 GB are a sparse file of the right length that holds zeros.
"""

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.weights.conversion import convert_weights

_LARGE = 2 << 30

_EXPORT = """
import json, sys, time
begin = time.perf_counter()
from no_time_to_train.export.trace import trace_encoder
from no_time_to_train.export.bind import bind_weights
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models.load import abstract_encoder
from no_time_to_train.weights.equinox_source import read_equinox_source
from pathlib import Path
name, folder, verify = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "verify"
export_onnx(name, folder, verify=verify)
whole = time.perf_counter() - begin
begin = time.perf_counter()
import onnx_ir
source = read_equinox_source(folder)
model = trace_encoder(abstract_encoder(source))
bind_weights(model, source.leaves, folder)
onnx_ir.save(model, folder / "again.onnx")
part = time.perf_counter() - begin
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"whole_s": whole, "after_imports_s": part, "peak_mb": int(peak.split()[1]) / 1000}))
"""

_LOAD = """
import json, sys, time
import onnxruntime
def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000
def mapped():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssFile")) / 1000
path, lean = sys.argv[1], sys.argv[2] == "lean"
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
if lean:
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_mem_pattern = False
before = own()
begin = time.perf_counter()
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
print(json.dumps({"ms": 1e3 * (time.perf_counter() - begin), "own_mb": own() - before, "mapped_mb": mapped()}))
"""

_RUN = """
import json, sys, time
import numpy
from no_time_to_train.runtime.onnx_session import open_session, read_onnx_file
begin = time.perf_counter()
session = open_session(read_onnx_file(sys.argv[1]))
opened = time.perf_counter() - begin
begin = time.perf_counter()
states = session.run(["last_hidden_state"], {"pixel_values": numpy.ones((1, 3, 224, 224), numpy.float32)})[0]
print(json.dumps({"open_s": opened, "answer_s": time.perf_counter() - begin, "shape": list(states.shape)}))
"""


def in_a_process(code: str, *args: str) -> dict[str, Any]:
    """Run code in a process of its own and read the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def write_stand_in(name: str, folder: Path) -> None:
    """Write a Hugging Face folder whose weights are a sparse file of zeros, as long as the real one."""
    entry = resolve_encoder(name)
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    folder.mkdir(parents=True)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header, end = {}, 0
    for key, value in sorted(model.state_dict().items()):
        begin, end = end, end + 4 * value.numel()
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(content)) + content)
        stream.truncate(8 + len(content) + end)


def write_random(name: str, folder: Path) -> Path:
    """Write a Hugging Face folder of random weights, and torch.onnx's file of the same; return the latter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = build_torch_encoder(name, random_init=True)
        save_file(encoder.model.state_dict(), folder.parent / f"{name}.safetensors")
        convert_weights(folder.parent / f"{name}.safetensors", folder, "hf")
        path = folder.parent / f"{name}_torch.onnx"
        pixels = torch.zeros(1, 3, 224, 224)
        torch.onnx.export(encoder.model, (pixels,), path, dynamo=True, verbose=False)
    return path


def measure(name: str, root: Path, repeats: int) -> dict[str, Any]:
    """Measure one encoder."""
    entry, folder = resolve_encoder(name), root / name
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    large = 4 * sum(parameter.numel() for parameter in model.parameters()) > _LARGE
    if large:
        write_stand_in(name, folder)
    else:
        torch_file = write_random(name, folder)
    figures = [in_a_process(_EXPORT, name, str(folder), "no" if large else "verify") for _ in range(1 if large else 3)]
    row: dict[str, Any] = {"encoder": name, "verified": not large}
    row |= {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
    row["onnx_kb"] = (folder / "model.onnx").stat().st_size / 1000
    if large:
        return row | in_a_process(_RUN, str(folder))
    ways = {
        "ours": (folder / "model.onnx", "plain"),
        "ours, prepacking off": (folder / "model.onnx", "lean"),
        "torch.onnx": (torch_file, "plain"),
    }
    loads: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (path, mode) in ways.items():
            loads[way].append(in_a_process(_LOAD, str(path), mode))
    for way, measured in loads.items():
        row[f"load: {way}"] = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    return row


def main() -> None:
    """Run all encoders and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["dinov3_small", "dinov3_7b"])
    parser.add_argument("--repeats", type=int, default=5, help="rounds of loading")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name in args.encoders:
            rows.append(measure(name, Path(root), args.repeats))
            table = Table(title=name)
            table.add_column("what")
            table.add_column("measured")
            for key, value in rows[-1].items():
                if isinstance(value, dict):
                    value = ", ".join(f"{part} {number:.1f}" for part, number in value.items())
                table.add_row(key, f"{value:.2f}" if isinstance(value, float) else str(value))
            Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
