"""Parts of `benchmarks.gpu`: the pipeline on the device, stage by stage and piece by piece."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.timing import Bench, graphed
from benchmarks.matching import match_plainly, random_bank
from benchmarks.speed import ask_peer
from no_time_to_train.matching import Instances, MemoryBank, precision, similarity, tiled_masks
from no_time_to_train.matching.scoring import match_masks
from no_time_to_train.models.predictions import to_prediction
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.base import Embedding, MaskProposals, Prompts
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2 import fast_decoder as prompting
from no_time_to_train.proposers.sam2 import mask_upscaling as mask_drawing
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

STAGES = ("encode", "embed", "prompt", "match", "write")
_PEER_BATCH = 64


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Multiply matrices in float32 (`highest`), or in TF32 (`high`)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _filled(bench: Bench, preset: str, *, compile: bool = False) -> Sam2MatchingBaseline_noAMG:
    baseline = bench.baseline(preset, compile=compile)
    torch.manual_seed(0)
    baseline.memory = random_bank(1, baseline.encoder.embed_dim).to(bench.device)
    return baseline


def _results(found: Instances, memory: MemoryBank) -> None:
    to_prediction(found, memory.class_names).to_coco(1)


@torch.inference_mode()
def _ours(bench: Bench, baseline: Sam2MatchingBaseline_noAMG, image: Tensor) -> dict[str, float]:
    clock = _Clock(bench)
    patches = baseline.encode(image)
    clock.stage("encode")
    (embedding,) = baseline.features.embeddings([image])
    clock.stage("embed")
    proposals = baseline.proposer(embedding, patches, cast(MemoryBank, baseline.memory))
    clock.stage("prompt")
    found = baseline.match(patches, proposals, (image.shape[1], image.shape[2]))
    clock.stage("match")
    _results(found, cast(MemoryBank, baseline.memory))
    clock.stage("write")
    return clock.milliseconds | {"masks": len(proposals.predicted_iou)}


@torch.inference_mode()
def _peer(
    bench: Bench, baseline: Sam2MatchingBaseline_noAMG, image: Tensor, dtype: torch.dtype | None
) -> dict[str, float]:
    sam2, clock = cast(Sam2Predictor, baseline.promptable), _Clock(bench)
    with torch.autocast(bench.device.type, dtype=dtype, enabled=dtype is not None):
        patches = baseline.encode(image)
        clock.stage("encode")
        embedding = sam2.embed(sam2.preprocess(image))
        clock.stage("embed")
        points = torch.from_numpy(point_grid(baseline.config.grid.points_per_side, sam2.image_size)[:, None]).to(
            bench.device
        )
        threshold = baseline.config.grid.iou_thr
        kept = [ask_peer(sam2, embedding, batch, threshold) for batch in torch.split(points, _PEER_BATCH)]
        proposals = MaskProposals(*(torch.cat(parts).float() for parts in zip(*kept, strict=True)))
        clock.stage("prompt")
    memory, size = cast(MemoryBank, baseline.memory), (image.shape[1], image.shape[2])
    found = match_plainly(patches.float(), *proposals, memory, size, threshold=baseline.config.grid.nms_thr)
    clock.stage("match")
    _results(found, cast(MemoryBank, baseline.memory))
    clock.stage("write")
    return clock.milliseconds | {"masks": len(proposals.predicted_iou)}


def _one_by_one(baseline: Sam2MatchingBaseline_noAMG, images: list[Tensor]) -> None:
    for image in images:
        baseline.predict(image)


class _Clock:
    """Milliseconds between one stage and the next, the device's work included."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self.milliseconds = bench, dict[str, float]()
        bench.synchronize()
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        """Say that a stage has ended."""
        self._bench.synchronize()
        with torch.profiler.record_function(f"end of {name}"):
            pass
        now = time.perf_counter()
        self.milliseconds[name], self._last = 1e3 * (now - self._last), now


def stages(bench: Bench) -> dict[str, Any]:
    """Ours exact and fast against transformers' SAM2 called as the original calls it, in turn; then images together."""
    image, exact, fast = bench.image(), _filled(bench, "exact"), _filled(bench, "fast")
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "peer": lambda: _peer(bench, exact, image, None),
        "peer, bf16 autocast": lambda: _peer(bench, exact, image, torch.bfloat16),
        "exact": lambda: _ours(bench, exact, image),
        "fast": lambda: _ours(bench, fast, image),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    peaks = dict[str, float]()
    for index in range(bench.sizes.repeats + 1):
        for name, way in ways.items():
            if bench.is_gpu and index == 0:
                torch.cuda.reset_peak_memory_stats()
            entry = way()
            if bench.is_gpu and index == 0:
                peaks[name] = torch.cuda.max_memory_allocated() / 1e9
            if index:
                rounds[name].append(entry)
    figures: dict[str, Any] = {}
    for name, entries in rounds.items():
        whole = [sum(entry[stage] for stage in STAGES) for entry in entries]
        figures[name] = {
            **{f"{stage}, ms": statistics.median(entry[stage] for entry in entries) for stage in STAGES},
            "all, ms": statistics.median(whole),
            "spread, ms": f"{min(whole):.1f} to {max(whole):.1f}",
            "images a second": 1e3 / statistics.median(whole),
            "masks": entries[0]["masks"],
            "peak, GB": peaks.get(name, 0.0),
        }
    for name in ("exact", "fast"):
        figures[name]["times the peer"] = figures["peer"]["all, ms"] / figures[name]["all, ms"]
    images = [bench.image(seed=seed) for seed in range(bench.sizes.batch)]
    for name, baseline in (("exact", exact), ("fast", fast)):
        one = bench.milliseconds(partial(_one_by_one, baseline, images), warm=1, repeats=2)
        together = bench.milliseconds(partial(baseline.predict_batch, images), warm=1, repeats=2)
        figures[name][f"{len(images)} images, one by one, ms each"] = one / len(images)
        figures[name][f"{len(images)} images together, ms each"] = together / len(images)
    return figures


@torch.inference_mode()
def networks(bench: Bench) -> dict[str, Any]:
    """Encoder and SAM2's image encoder by precision and batch, eager and as CUDA graphs, with their arithmetic rate."""
    baseline, figures = bench.baseline("exact"), dict[str, Any]()
    for name, inputs in _inputs(bench, baseline):
        for count in (1, bench.sizes.batch):
            pixels = inputs.expand(count, -1, -1, -1).contiguous()
            with FlopCounterMode(display=False) as counted:
                _network(baseline, name, torch.float32)(pixels)
            entry: dict[str, Any] = {"GFLOP": counted.get_total_flops() / 1e9}
            for name_of in ("fp32", "tf32", "bf16"):
                dtype = torch.bfloat16 if name_of == "bf16" else torch.float32
                function, given = _network(baseline, name, dtype), pixels.to(dtype)
                with matmul_precision("high" if name_of == "tf32" else "highest"):
                    spent = bench.milliseconds(partial(function, given))
                    entry[f"{name_of}, ms"] = spent
                    entry[f"{name_of}, TFLOP/s"] = entry["GFLOP"] / spent
                    if bench.is_gpu:
                        try:
                            replay = graphed(function, given)
                            entry[f"{name_of} as graph, ms"] = bench.milliseconds(partial(replay, given))
                        except RuntimeError as error:
                            entry[f"{name_of} as graph"] = str(error).splitlines()[0]
            figures[f"{name}, batch {count}"] = entry
    return figures


def _inputs(bench: Bench, baseline: Sam2MatchingBaseline_noAMG) -> list[tuple[str, Tensor]]:
    side, square = bench.sizes.img_size, baseline.promptable.image_size
    return [(name, torch.randn(1, 3, s, s, device=bench.device)) for name, s in (("encoder", side), ("sam2", square))]


def _network(baseline: Sam2MatchingBaseline_noAMG, name: str, dtype: torch.dtype) -> Callable[[Tensor], Any]:
    if name == "encoder":
        torch.nn.Module.to(baseline.encoder, dtype)
        return baseline.encoder.tokens
    baseline.promptable.set_precision(dtype)
    return cast(Sam2Predictor, baseline.promptable).model.get_image_embeddings


@torch.inference_mode()
def prompts(bench: Bench) -> dict[str, Any]:
    """The prompt decoder alone: ours by prompts at a time, and transformers' in float32, TF32 and bfloat16."""
    sam2 = cast(Sam2Predictor, bench.baseline("exact").promptable)
    torch.manual_seed(0)
    embedding = sam2.embed(sam2.preprocess(bench.image()))
    points = torch.from_numpy(point_grid(bench.sizes.points, sam2.image_size)[:, None]).to(bench.device)
    prepared, figures = sam2.prepare(embedding), dict[str, Any]()
    figures["prepare, ms"] = bench.milliseconds(lambda: sam2.prepare(embedding))
    before, kind = dict(prompting._CHUNK_SIZES), bench.device.type
    guarded, exact = precision.backends, sam2.best_masks(prepared, Prompts(points))
    for at_once in (64, 128, 256, 512):
        prompting._CHUNK_SIZES[kind] = prompting._ChunkSize(at_once, 4096)
        spent = bench.milliseconds(partial(sam2.best_masks, prepared, Prompts(points), batch_size=at_once), repeats=3)
        figures[f"ours, {at_once} at a time, ms"] = spent
        spent = bench.milliseconds(
            partial(sam2.best_masks, prepared, Prompts(points), min_iou=1e9, batch_size=at_once), repeats=3
        )
        figures[f"ours, {at_once} at a time, nothing drawn, ms"] = spent
        with matmul_precision("high"):
            precision.backends = tuple
            spent = bench.milliseconds(
                partial(sam2.best_masks, prepared, Prompts(points), batch_size=at_once), repeats=3
            )
            figures[f"ours, {at_once} at a time, were TF32 let in, ms"] = spent
            rounded = sam2.best_masks(prepared, Prompts(points), batch_size=at_once)
            precision.backends = guarded
        largest = exact.mask_logits.abs().max()
        figures["difference that TF32 would make"] = float(
            (rounded.mask_logits - exact.mask_logits).abs().max() / largest
        )
        del rounded
    for together in (16, 256):
        own, mask_drawing._TOGETHER = mask_drawing._TOGETHER, together
        spent = bench.milliseconds(partial(sam2.best_masks, prepared, Prompts(points), batch_size=256), repeats=3)
        figures[f"ours, 256 at a time, {together} drawn together, ms"] = spent
        mask_drawing._TOGETHER = own
    prompting._CHUNK_SIZES.update(before)
    for name, dtype, matmul in (
        ("fp32", None, "highest"),
        ("TF32", None, "high"),
        ("bf16 autocast", torch.bfloat16, "highest"),
    ):
        for at_once in (64, 256):
            with matmul_precision(matmul), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
                spent = bench.milliseconds(
                    partial(_asked_all, sam2, embedding, torch.split(points, at_once)),
                    repeats=3,
                )
            figures[f"transformers, {at_once} at a time, {name}, ms"] = spent
    ours, theirs = sam2.best_masks(prepared, Prompts(points)), ask_peer(sam2, embedding, points[:64], -1.0)
    largest = theirs.mask_logits.abs().max()
    figures["largest difference"] = float((ours.mask_logits[:64] - theirs.mask_logits).abs().max() / largest)
    return figures


def _asked_all(sam2: Sam2Predictor, embedding: Embedding, batches: Sequence[Tensor]) -> list[MaskProposals]:
    return [ask_peer(sam2, embedding, batch, -1.0) for batch in batches]


def _shared(logits: Tensor, size: tuple[int, int], kept: Tensor) -> Tensor:
    shared: Tensor = tiled_masks.TiledMasks(logits, size).intersections(kept)
    return shared


@torch.inference_mode()
def matching(bench: Bench) -> dict[str, Any]:
    """Pooling, tiled resizing and matching of many masks, as a GPU does it and as a CPU would."""
    torch.manual_seed(0)
    count, dim, side = bench.sizes.masks, 1024, 256
    patches = torch.randn(37, 37, dim, device=bench.device)
    logits = F.interpolate(torch.randn(count, 1, 7, 7, device=bench.device), (side, side), mode="bicubic")[:, 0]
    quality, bank, figures = torch.rand(count, device=bench.device), random_bank(80, dim), dict[str, Any]()
    memory, kept = bank.to(bench.device), torch.arange(min(count, 800), device=bench.device)
    figures["pool, ms"] = bench.milliseconds(lambda: similarity.pool_masks(patches, logits))
    for name, size in (("640x480", (480, 640)), ("4000x3000", (3000, 4000))):
        if bench.is_gpu:
            own = tiled_masks._LIMITS["cuda"]
            for limits in (tiled_masks._Limits(32, 2**24), own, tiled_masks._Limits(256, 2**30)):
                tiled_masks._LIMITS["cuda"] = limits
                figures[f"pixels shared by 800, {name}, tiles of {limits.side} and {limits.elements:.0e}, ms"] = (
                    bench.milliseconds(partial(_shared, logits, size, kept), repeats=3)
                )
            tiled_masks._LIMITS["cuda"] = own
        figures[f"match, {name}, ms"] = bench.milliseconds(
            partial(match_masks, patches, logits, quality, memory, image_size=size), repeats=3
        )
        found = match_masks(patches, logits, quality, memory, image_size=size)
        figures[f"results in COCO's form, {name}, ms"] = bench.milliseconds(partial(_results, found, memory), repeats=3)
        on_cpu = match_masks(patches.cpu(), logits.cpu(), quality.cpu(), memory.to("cpu"), image_size=size)
        memory = bank.to(bench.device)
        figures[f"instances as on a CPU, {name}"] = bool(
            len(found) == len(on_cpu) and torch.equal(found.labels.cpu(), on_cpu.labels)
        )
    return figures


def profiled(bench: Bench) -> dict[str, Any]:
    """Profile one image: kernels, their number, and the time that the device works."""
    figures: dict[str, Any] = {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.is_gpu else [])]
    for preset in ("exact", "fast"):
        baseline, image = _filled(bench, preset), bench.image()
        for _ in range(2):
            baseline.predict(image)
        wall = bench.milliseconds(partial(baseline.predict, image), warm=4)
        with profile(activities=activities) as recorded:
            with torch.inference_mode():
                _ours(bench, baseline, image)
            bench.synchronize()
        recorded.export_chrome_trace(str(bench.out / f"{preset}.json.gz"))
        entries = [
            entry for entry in recorded.key_averages() if _device_time(entry) > 0 and entry.is_user_annotation is False
        ]
        kernels = [entry for entry in entries if str(entry.device_type).endswith("CUDA")]
        total = sum(_device_time(entry) for entry in kernels) / 1e3
        table = sorted(kernels, key=_device_time, reverse=True)[:14]
        figures[preset] = {
            "wall, ms": wall,
            "device busy, ms": total,
            "kernels": sum(entry.count for entry in kernels),
            **{f"{entry.key[:88]} x{entry.count}": _device_time(entry) / 1e3 for entry in table},
        }
    return figures


def _device_time(entry: Any) -> float:
    return float(getattr(entry, "self_device_time_total", 0))


def compiled(bench: Bench) -> dict[str, Any]:
    """The preset `fast` with `compile: true`: seconds until the first images are done, then milliseconds an image."""
    baseline, images = _filled(bench, "fast", compile=True), [bench.image(seed=seed) for seed in range(4)]
    begin = time.perf_counter()
    # The third is captured as a CUDA graph.
    _one_by_one(baseline, images[:3])
    bench.synchronize()
    figures: dict[str, Any] = {"three images, compilation included, s": time.perf_counter() - begin}
    entries = [_ours(bench, baseline, images[index % 4]) for index in range(2 + bench.sizes.repeats)][2:]
    figures |= {f"{stage}, ms": statistics.median(entry[stage] for entry in entries) for stage in STAGES}
    spent = bench.milliseconds(partial(_one_by_one, baseline, images), warm=1, repeats=bench.sizes.repeats)
    return figures | {"one by one, ms each": spent / len(images)}
