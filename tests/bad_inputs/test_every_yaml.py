"""Every YAML that is shipped: with an option too many, and as it is where nothing is there that it names."""

from pathlib import Path

import pytest

from tests.bad_inputs.conftest import CONFIGS, Judge
from tests.bad_inputs.table import Case, Given

PRESETS = sorted((CONFIGS / "presets").glob("*.yaml"))
TRAININGS = sorted([*CONFIGS.glob("train_*.yaml"), *CONFIGS.glob("distill_*.yaml")])
MATCHING = sorted(path for path in CONFIGS.glob("*.yaml") if path not in TRAININGS)
# What each misses first in an empty folder. These have all that they need, or draw it.
COMPLETE = {
    *("quickstart.yaml", "distill_quickstart.yaml", "train_quickstart_encoder.yaml", "train_quickstart_sam2.yaml"),
    "matching_baseline_dinov3_test.yaml",
}
MISSED = {
    "coco_fewshot_10shot_sam2l_dinov3l.yaml": ["few_shot_10shot_seed33.json does not exist", "check the path"],
    "custom_dataset.yaml": ["references.json does not exist", "check the path"],
    "distill_dinov3_small.yaml": ["no weights of the teacher dinov3_large", "ntt fetch dinov3_large"],
}


def yaml(path: Path, name: str, *more: str, says: list[str]) -> Case:
    """The main job, or a training, by a shipped YAML, and what spoils it."""

    def argv(f: Given) -> list[str | Path]:
        return ["run_lightening", *(["fit"] if path in TRAININGS else []), "--config", path, *more]

    return Case(f"{path.name}: {name}", argv, says)


CASES = [
    *(
        yaml(
            path,
            f"an unknown option of the {part}",
            f"--{part}.colour",
            "red",
            says=["'colour'", f"{part} has no setting", "it takes"],
        )
        for path in (*MATCHING, *TRAININGS)
        for part in ("model", "data")
    ),
    *(yaml(path, "alone", says=[path.name, "does not say which model", "pl_configs/"]) for path in PRESETS),
    *(
        yaml(path, "nothing is there", says=MISSED.get(path.name, ["data.references is not set", "give a COCO JSON"]))
        for path in (*MATCHING, *TRAININGS)
        if path.name not in COMPLETE
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
