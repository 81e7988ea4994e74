"""Parts of `benchmarks.gpu`: distillation, and a teacher in shards."""

import socket
from typing import Any

import torch
import torch.distributed

from benchmarks.gpu.timing import Bench
from no_time_to_train.training.distill.configs import TeacherConfig
from no_time_to_train.training.distill.encoders import build_teacher
from no_time_to_train.training.distill.module import DistillationModule


def training(bench: Bench) -> dict[str, Any]:
    """A step of distillation into dinov3_small under bfloat16 autocast, with and without `torch.compile`."""
    batch, size = (64, 224) if bench.is_gpu else (2, 64)
    images = torch.rand(batch, 3, size, size, device=bench.device)
    figures: dict[str, Any] = {"teacher": bench.sizes.encoder, "batch": batch}
    for compile_them in (False, True) if bench.is_gpu else (False,):
        teacher = {"name": bench.sizes.encoder, "random_init": True, "dtype": "bfloat16"}
        module = DistillationModule(teacher, {"name": "dinov3_small"}, compile=compile_them).to(bench.device)
        module.teacher.prepare(bench.device)
        if compile_them:
            module.teacher.model.compile()
            module.model.compile()
        optimizer = torch.optim.AdamW(module.parameters(), 1e-4, fused=bench.is_gpu)

        def step(module: DistillationModule = module, optimizer: Any = optimizer) -> None:
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = module.compare(images).total
            loss.backward()  # type: ignore[no-untyped-call] # of torch
            optimizer.step()
            optimizer.zero_grad()

        spent = bench.milliseconds(step, warm=3)
        how = "compiled" if compile_them else "eager"
        figures[f"{how}, ms a step"] = spent
        figures[f"{how}, images a second"] = 1e3 * batch / spent
    return figures


def teacher(bench: Bench) -> dict[str, Any]:
    """A teacher in shards over a group of one process: the same features as whole."""
    found = build_teacher(TeacherConfig(name=bench.sizes.encoder, random_init=True, dtype="float32", shard=True))
    found.prepare(bench.device)
    pixels = torch.randn(2, 3, 64, 64, device=bench.device)
    with torch.no_grad():
        whole = found.encoder.tokens(pixels)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.distributed.init_process_group(
            "nccl" if bench.is_gpu else "gloo", f"tcp://127.0.0.1:{port}", rank=0, world_size=1
        )
        try:
            found.spread(bench.device)
            sharded = found.encoder.tokens(pixels)
            spent = bench.milliseconds(lambda: found.encoder.tokens(pixels))
        finally:
            torch.distributed.destroy_process_group()
    return {"largest difference": float((whole - sharded).abs().max()), "sharded, ms": spent}
