"""Promptable models by name, and what proposes masks with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from no_time_to_train.configs.pipeline import AmgConfig, MatcherConfig
from no_time_to_train.encoders.preprocessing import Resize, resize_bilinear
from no_time_to_train.proposers.automatic import AutomaticMaskGenerator
from no_time_to_train.proposers.base import MaskProposer, PromptableModel
from no_time_to_train.proposers.grid import GridProposer, PointGrid
from no_time_to_train.proposers.prior_guided import GuidedProposer


@dataclass(frozen=True)
class PromptingRules:
    """How a promptable model is used.

    Attributes:
        resize: Brings an image to the model's input.
        as_original: Whether images are embedded and prompts decoded as the original project does, where the model has
            a way of its own for that.
    """

    resize: Resize = resize_bilinear
    as_original: bool = False


# Takes the name, weights, rules and whether weights may be random.
Builder = Callable[[str, Path | str | None, PromptingRules, bool], PromptableModel]


def _sam2(name: str, weights: Path | str | None, rules: PromptingRules, random_init: bool) -> PromptableModel:
    from no_time_to_train.proposers.sam2.predictor import build_sam2

    return build_sam2(name, weights, rules=rules, random_init=random_init)


# By the beginning of the name, before a colon: `toy:small`. Names without one are of SAM2.
BUILDERS: dict[str, Builder] = {"sam2": _sam2}


def build_promptable(
    name: str, weights: Path | str | None = None, *, rules: PromptingRules | None = None, random_init: bool = False
) -> PromptableModel:
    """Build a promptable model with its weights.

    Args:
        name: As its kind names it: for SAM2, Meta's name of a configuration, or a Hugging Face folder.
        weights: A file or a folder; None takes those of the folder.
        rules: How it is used; as the models' authors do if None.
        random_init: Where there are no weights, take random ones, and warn.

    Raises:
        NoTimeToTrainError: Weights are missing or do not fit, or the name is unknown.
    """
    kind, colon, _ = name.partition(":")
    builder = BUILDERS.get(kind, _sam2) if colon else _sam2
    return builder(name, weights, rules or PromptingRules(), random_init)


def build_proposer(config: MatcherConfig, model: PromptableModel, points: PointGrid) -> MaskProposer:
    """Choose what a promptable model is asked, as the settings say.

    Args:
        config: All settings.
        model: Draws the masks.
        points: Places the points of a grid.
    """
    if config.name == "matching_baseline":
        return AutomaticMaskGenerator(model, config.sam2_amg_cfg or AmgConfig())
    if config.grid.prompt_selection == "prior":
        return GuidedProposer(model, config.grid)
    return GridProposer(model, config.grid, points)
