"""What every SAM2 can be asked, whatever runs it: embeddings and masks, and what comes out of every stage."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from no_time_to_train.parity.sam2.prompts import ParityPrompts, make_prompts
from no_time_to_train.parity.stages import DECODED, NECK, Trace
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

# By stage: the embeddings (B, h, w, C); predicted IoUs (B, N, K), mask logits (B, h, w, N K), object scores (B, N).
Outputs = dict[str, Float[np.ndarray, "B ..."]]


@dataclass(frozen=True)
class Sam2Backend(ABC):
    """A SAM2, whatever runs it.

    Attributes:
        name: `torch`, `eqx` or `onnx`, and a number where there is another of the kind.
    """

    kind: ClassVar[str]
    name: str

    @property
    def precision(self) -> str:
        """What images are embedded in: fp32, bf16, fp16 or int8."""
        return "fp32"

    @property
    def device(self) -> str:
        """Where it runs: cpu or cuda."""
        return "cpu"

    @property
    @abstractmethod
    def side(self) -> int:
        """Height and width of the images that it takes, in pixels."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of architecture and weights; reads all of them."""

    @property
    def prompts(self) -> ParityPrompts:
        """The prompts that every image gets."""
        return make_prompts(self.side)

    @abstractmethod
    def outputs(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Outputs:
        """Embed images, and decode the prompts on each."""

    @abstractmethod
    def trace(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Trace:
        """Return what comes out of every stage that can be seen, on the CPU; shapes may be flat."""

    @abstractmethod
    def torch_twin(self) -> Sam2Predictor | None:
        """Return a torch model with the same weights in float32; None if there is none."""


def canonical_outputs(embeddings: Sequence[np.ndarray], found: Sequence[tuple[np.ndarray, ...]]) -> Outputs:
    """Bring embeddings (B, C, h, w) and what was decoded on each image to the shapes of `Outputs`."""
    iou, logits, score = (np.stack(parts).astype(np.float32) for parts in zip(*found, strict=True))
    masks = logits.reshape(len(logits), -1, *logits.shape[3:]).transpose(0, 2, 3, 1)
    levels = [np.moveaxis(level, 1, -1).astype(np.float32) for level in embeddings]
    return dict(zip((*NECK, *DECODED), (*levels, iou, masks, score[..., 0]), strict=True))


def as_trace(outputs: Outputs) -> Trace:
    """Return outputs as the stages that they are."""
    return {name: torch.from_numpy(np.array(values)) for name, values in outputs.items()}
