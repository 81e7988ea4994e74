"""What to say of classes of which nothing was found: the best score that there was, and which setting to lower."""

from collections.abc import Sequence

from no_time_to_train.batch.run import RunSummary
from no_time_to_train.configs.pipeline import MatcherConfig

_MOST_NAMED = 10


def advice(outcome: RunSummary, class_names: Sequence[str], config: MatcherConfig, min_score: float) -> list[str]:
    """Return a line for each reason why nothing was found of some classes; nothing if each was found.

    Args:
        outcome: Of the run.
        class_names: The classes that were looked for.
        config: The models and their settings.
        min_score: Instances of a lower score were left out.
    """
    found = {instance["category"] for entry in outcome.entries for instance in entry["instances"]}
    best: dict[str, float] = {}
    for entry in outcome.entries:
        for name, score in entry["best_scores"].items():
            best[name] = max(score, best.get(name, score))
    missed = [name for name in class_names if name not in found]
    if not missed or not outcome.entries:
        return []
    if not best:
        return [f"nothing found at any score: {_masks_advice(config)}"]
    low = [f"{name} (best score {best[name]:.3g})" for name in missed if name in best]
    none = [name for name in missed if name not in best]
    lines = []
    if low:
        lines.append(f"nothing found of {_named(low)}: lower --min-score, now {min_score:g}")
    if none:
        lines.append(
            f"nothing found at any score of {_named(none)}: each mask resembles another class more "
            f"(give more references of it, or look for it alone with --class-names); or {_masks_advice(config)}"
        )
    return lines


def _masks_advice(config: MatcherConfig) -> str:
    """Return which settings of the YAML give more masks to choose from."""
    automatic = config.name == "matching_baseline"
    group = "sam2_amg_cfg" if automatic else "sam2_infer_cfgs"
    threshold = "pred_iou_thresh" if automatic else "iou_thr"
    return f"lower {group}.{threshold}, or raise {group}.points_per_side, in the YAML"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
