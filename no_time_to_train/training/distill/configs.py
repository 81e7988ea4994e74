"""What a distillation is made of, as YAML sets it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from no_time_to_train.errors import ConfigError

TeacherDtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Which encoder teaches.

    Attributes:
        name: A registry name, whose weights are looked for under `checkpoints/` if none are named.
        ckpt_path: Its weights, in any layout.
        folder: A fetched folder instead of both, which is checked to be whole; see `DinoV3Teacher`.
        dtype: Of its weights and features.
        random_init: Draw random weights where there are none, to try the pipeline.
        shard: Spread its blocks over the processes (FSDP2), for teachers that no single device holds.
    """

    name: str | None = None
    ckpt_path: Path | None = None
    folder: Path | None = None
    dtype: TeacherDtype = "float32"
    random_init: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        _check_named_once(self, "teacher")


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Which encoder learns.

    Attributes:
        name: A registry name: fresh, unless weights are named.
        ckpt_path: Weights to begin with, in any layout.
        folder: A transformers folder instead: its architecture and weights, of any size.
        seed: Of fresh weights.
    """

    name: str | None = None
    ckpt_path: Path | None = None
    folder: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_named_once(self, "student")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weights of the terms; a term of weight 0 is left out.

    Attributes:
        cls: 1 - cosine of the CLS tokens.
        patches: 1 - cosine of the patch tokens.
        gram: Mean square difference of the similarities between the patches of an image, after the DINOv3 paper.
        layer: 1 - cosine of the patch tokens at each pair of `layers`, on average.
        layers: Blocks of the student, counted from 0, with those of the teacher that they learn from; a ConvNeXt's are
            its stages.
    """

    cls: float = 1.0
    patches: float = 1.0
    gram: float = 0.0
    layer: float = 1.0
    layers: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = {"cls": self.cls, "patches": self.patches, "gram": self.gram, "layer": self.layer}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"loss.{name} is {weight}, expected 0 or more", remedy="correct it in the YAML")
        if not (self.cls or self.patches or self.gram):
            raise ConfigError(
                "loss.cls, loss.patches and loss.gram are all 0, which leaves the last blocks untrained",
                remedy="give one of them a weight",
            )
        if not self.layer:
            object.__setattr__(self, "layers", {})
        if any(type(block) is not int or block < 0 for pair in self.layers.items() for block in pair):
            raise ConfigError(
                f"loss.layers are {self.layers}, expected numbers of blocks, from 0 on", remedy="correct the YAML"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Attributes:
        learning_rate: At its peak.
        weight_decay: Of matrices; norms, biases and tokens have none.
        betas: Of AdamW.
        warmup_steps: Steps of a linear rise; a cosine falls from the first step to the last.
        final_share: Of the peak, what the cosine falls to at the last step.
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 500
    final_share: float = 0.01

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("learning_rate", 0 < self.learning_rate < float("inf"), "more than 0, and finite"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "0 or more, and finite"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
        ):
            if not holds:
                value = getattr(self, name)
                raise ConfigError(f"optimizer.{name} is {value}, expected {expected}", remedy="correct it in the YAML")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"betas are {self.betas}, expected 0 or more and below 1", remedy="0.9 and 0.98 are usual"
            )
        if not 0 <= self.final_share <= 1:
            raise ConfigError(f"final_share is {self.final_share}, expected 0 to 1", remedy="correct it in the YAML")


def _check_named_once(config: TeacherConfig | StudentConfig, who: str) -> None:
    both = config.folder is not None and (config.name is not None or config.ckpt_path is not None)
    if both or (config.name is None and config.folder is None):
        raise ConfigError(
            f"the {who} is named twice, or not at all", remedy=f"set {who}.name, with ckpt_path, or {who}.folder"
        )
