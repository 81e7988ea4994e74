"""A promptable model that is not SAM2: a mask is what has the color of the prompted point."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from no_time_to_train.proposers.base import Embedding, MaskFilter, MaskProposals, Prompts, best_above, collect_masks
from no_time_to_train.proposers.factory import PromptingRules

SIDE, MASK = 64, 32


class ToyPromptable(nn.Module):
    """Masks of the pixels whose color is within 0.05, 0.2 and 0.8 of the color at the prompt."""

    kind = "Toy"
    image_size, mask_size = SIDE, MASK
    random_weights = False
    embedding_shapes: Mapping[str, tuple[int, ...]] = {"colors": (1, 3, MASK, MASK)}

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("widths", torch.tensor([0.05, 0.2, 0.8]))
        self.embedded = 0
        self.precision = torch.float32

    @property
    def device(self) -> torch.device:
        return self.get_buffer("widths").device

    @property
    def image_encoder(self) -> nn.Module:
        return self

    def fingerprint(self) -> str:
        return f"toy {self.get_buffer('widths').tolist()}"

    def set_precision(self, dtype: torch.dtype) -> None:
        self.precision = dtype

    def preprocess(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "1 3 S S"]:
        return F.interpolate(image[None].float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)

    def embed(self, pixel_values: Float[Tensor, "B 3 S S"]) -> Embedding:
        self.embedded += len(pixel_values)
        return {"colors": F.avg_pool2d(pixel_values.to(self.precision), SIDE // MASK).float()}

    def scale_points(self, points: Float[Tensor, "N P 2"], image_size: tuple[int, int]) -> Float[Tensor, "N P 2"]:
        height, width = image_size
        return points * points.new_tensor([SIDE / width, SIDE / height])

    def prepare(self, embedding: Embedding) -> Tensor:
        colors: Tensor = embedding["colors"]
        return colors[0]

    def mask_batches(
        self, image: Tensor, prompts: Prompts, keep: MaskFilter, *, batch_size: int = 128
    ) -> Iterator[MaskProposals]:
        points = prompts.points
        if points is None:
            assert prompts.boxes is not None
            points = prompts.boxes.view(-1, 2, 2).mean(dim=1, keepdim=True)
        for some in torch.split(points[:, 0], batch_size):
            x, y = (some / (SIDE / MASK)).long().clamp(0, MASK - 1).T
            apart = (image[None] - image[:, y, x].T[:, :, None, None]).norm(dim=1)
            logits = self.get_buffer("widths")[None, :, None, None] - apart[:, None]
            wanted = keep(torch.tensor([0.7, 0.9, 0.5]).expand(len(some), 3))
            yield MaskProposals(logits[wanted], torch.tensor([0.7, 0.9, 0.5]).expand(len(some), 3)[wanted])

    def best_masks(
        self, image: Tensor, prompts: Prompts, *, min_iou: float | None = None, batch_size: int = 128
    ) -> MaskProposals:
        batches = self.mask_batches(image, prompts, best_above(min_iou), batch_size=batch_size)
        return collect_masks(batches, len(prompts), MASK, image)


def build_toy(name: str, weights: Path | str | None, rules: PromptingRules, random_init: bool) -> ToyPromptable:
    """Build it, as `factory.BUILDERS` has it."""
    del name, weights, rules, random_init
    return ToyPromptable()
