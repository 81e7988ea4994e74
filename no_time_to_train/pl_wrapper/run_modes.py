"""The inputs and outputs of each `test_mode` of the main job, and checks of the files that a run names."""

from pathlib import Path
from typing import Literal

from no_time_to_train.errors import ConfigError

TestMode = Literal["full", "fill_memory", "fill_memory_neg", "postprocess_memory", "test", "vis_memory"]

MEMORY_SUFFIX = ".safetensors"

# What each mode reads, and whether it begins with a memory file.
READS: dict[TestMode, tuple[str, ...]] = {
    "full": ("references", "optional negatives", "targets"),
    "fill_memory": ("references",),
    "fill_memory_neg": ("negatives",),
    "postprocess_memory": (),
    "test": ("targets",),
    "vis_memory": ("references",),
}
NEEDS_MEMORY = frozenset({"fill_memory_neg", "postprocess_memory", "test"})
WRITES_MEMORY = frozenset({"fill_memory", "fill_memory_neg", "postprocess_memory"})


def check_mode(mode: TestMode, *, memory_path: Path | None, out_path: Path | None, shard: str | None) -> None:
    """Refuse files that a mode needs and has not, or has and does not use.

    Args:
        mode: Of the run.
        memory_path: The memory file that the run begins with.
        out_path: The memory file that the run writes.
        shard: Which share of the targets the run takes.

    Raises:
        ConfigError: A file is missing, has no use, or has another ending.
    """
    if mode in NEEDS_MEMORY and memory_path is None:
        raise ConfigError(f"test_mode {mode} begins with a memory file", remedy="give it as --ckpt_path FILE")
    if mode in WRITES_MEMORY and out_path is None:
        raise ConfigError(f"test_mode {mode} writes a memory file", remedy="say where with --out_path FILE")
    if mode not in NEEDS_MEMORY and memory_path is not None:
        raise ConfigError(
            f"test_mode {mode} does not begin with a memory file, and --ckpt_path is {memory_path}",
            remedy=f"leave it out, or set --model.test_mode to one of {', '.join(sorted(NEEDS_MEMORY))}",
        )
    if mode not in WRITES_MEMORY and out_path is not None:
        raise ConfigError(
            f"test_mode {mode} does not write a memory file, and --out_path is {out_path}",
            remedy=f"leave it out, or set --model.test_mode to one of {', '.join(sorted(WRITES_MEMORY))}",
        )
    if out_path is not None and out_path.suffix != MEMORY_SUFFIX:
        raise ConfigError(
            f"--out_path is {out_path}, expected a name that ends in {MEMORY_SUFFIX}",
            remedy="rename it: --ckpt_path takes a memory by this ending",
        )
    if "targets" not in READS[mode] and shard is not None:
        raise ConfigError(f"data.shard is of targets, and test_mode {mode} reads none", remedy="leave out data.shard")
