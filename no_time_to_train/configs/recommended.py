"""The models that are taken where none are named: a real pair if it was fetched, else those that the project ships."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, weights_at_hand
from no_time_to_train.configs.sam2_releases import SAM2_FILES
from no_time_to_train.configs.shipped import weights_folder

SHIPPED = "quickstart"
# Of memory that is available: the large pair takes some 4 GB in float32, and others need memory too.
_ENOUGH = 12 * 2**30  # bytes


@dataclass(frozen=True)
class Pair:
    """An encoder and a SAM2 that go together, neither of which asks for an account.

    Attributes:
        encoder: Its registry name; timm has a copy.
        sam2: The name of Meta's file.
    """

    encoder: str
    sam2: str

    @property
    def sam2_weights(self) -> Path:
        """Path of the SAM2 file; it may not have been fetched yet."""
        return weights_folder() / SAM2_FILES[self.sam2].file_name

    @property
    def is_at_hand(self) -> bool:
        """Whether both models have been fetched."""
        return self.sam2_weights.is_file() and weights_at_hand(ENCODER_CONFIGS[self.encoder]) is not None

    def settings(self) -> dict[str, Any]:
        """Return the settings of a pipeline with these models, by the names of `MatcherConfig`."""
        return {
            "name": "matching_baseline_noAMG",
            "sam2_cfg_file": SAM2_FILES[self.sam2].config,
            "sam2_ckpt_path": str(self.sam2_weights),
            "encoder_cfg": {"name": self.encoder},
        }


LARGE = Pair("dinov3_base", "sam2.1_hiera_base_plus")
SMALL = Pair("dinov3_small_plus", "sam2.1_hiera_tiny")


def recommended_pair(available: int, *, gpu: bool) -> Pair:
    """Choose the pair for a machine.

    Args:
        available: Bytes of memory.
        gpu: Whether a GPU runs it; on a CPU the large pair takes three times as long.
    """
    return LARGE if gpu and available >= _ENOUGH else SMALL


def pair_at_hand() -> Pair | None:
    """Return the pair that was fetched, the large one first; None if neither was."""
    return next((pair for pair in (LARGE, SMALL) if pair.is_at_hand), None)


def said_of_default(pair: Pair | None) -> str:
    """Say in one line which models are taken where none are named."""
    if pair is not None:
        return f"models: {pair.encoder} and {pair.sam2}, as none are named"
    return (
        "models: those that the project ships, which have seen no photograph; ntt setup fetches real ones, which are "
        "taken from then on"
    )
