"""Names that nothing takes: the nearest is named, and all that there are."""

import pytest

from tests.bad_inputs.conftest import CONFIGS, Judge
from tests.bad_inputs.table import Case

pytestmark = [pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")]

CFG = "--model.model_cfg"
POINTS = ["model.model_cfg.sam2_infer_cfgs has no setting 'points_per_sid'", "did you mean points_per_side?", "iou_thr"]
QUICKSTART = CONFIGS / "quickstart.yaml"


def added(name: str, content: str, says: list[str]) -> Case:
    """The main job with a YAML after the small one."""
    return Case(f"match: {name}", lambda f: f.match("--config", f.text("own.yaml", content)), ["own.yaml: ", *says])


CASES = [
    Case("match: an option", lambda f: f.match(f"{CFG}.sam2_infer_cfgs.points_per_sid", "4"), POINTS),
    Case("match: an option with =", lambda f: f.match(f"{CFG}.sam2_infer_cfgs.points_per_sid=4"), POINTS),
    Case(
        "match: an option of a group that is not there",
        lambda f: f.match(f"{CFG}.sam2_infer_cfg.points_per_side", "4"),
        ["model.model_cfg has no setting 'sam2_infer_cfg'", "did you mean sam2_infer_cfgs?", "sam2_amg_cfg"],
    ),
    added(
        "a key",
        "model:\n  init_args:\n    model_cfg:\n      sam2_infer_cfgs:\n        points_per_sid: 4\n",
        POINTS,
    ),
    added(
        "a key of the model",
        "model:\n  init_args:\n    model_cf:\n      name: x\n",
        ["model has no setting 'model_cf'", "did you mean model_cfg?", "overlay_score"],
    ),
    added(
        "a key of the encoder",
        "model:\n  init_args:\n    model_cfg:\n      encoder_cfg:\n        image_size: 64\n",
        ["model.model_cfg.encoder_cfg has no setting 'image_size'", "did you mean img_size?", "resize_policy"],
    ),
    added(
        "a key of a callback",
        "trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.RichProgressBar\n"
        "      init_args:\n        refresh_rat: 2\n",
        ["trainer.callbacks has no setting 'refresh_rat'", "RichProgressBar", "did you mean refresh_rate?", "theme"],
    ),
    Case(
        "match: an option of the data",
        lambda f: f.match("--data.reference", "x.json"),
        ["data has no setting 'reference'", "did you mean references?", "target_images"],
    ),
    Case(
        "match: an option of the trainer",
        lambda f: f.match("--trainer.device", "2"),
        ["trainer has no setting 'device'", "did you mean devices?", "max_epochs"],
    ),
    Case(
        "quickstart: references",
        lambda f: ["run_lightening", "--config", QUICKSTART, "--data.references", f.shop.data.references],
        [
            "data has no setting 'references': ShapesDataModule does not take it",
            "--data no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule",
        ],
    ),
    Case(
        "fit: an option of other data",
        lambda f: f.fit("--data.shots", "2"),
        ["ViewsDataModule does not take it", "--data no_time_to_train.pl_wrapper.shapes_datamodule.ShapesDataModule"],
    ),
    Case(
        "predict: an option",
        lambda f: f.predict("--refs", "x.json"),
        ["ntt predict has no option --refs", "did you mean --references?", "--min-score"],
    ),
    Case(
        "predict: an option of two words",
        lambda f: f.predict("--min_scores", "0.5"),
        ["ntt predict has no option --min_scores", "did you mean --min-score?"],
    ),
    Case(
        "predict: settings",
        lambda f: f.predict("--config", f.settings(sam2_infer_cfgs__points_per_sid=4)),
        ["sam2_infer_cfgs has no setting points_per_sid", "did you mean points_per_side?", "it has iou_thr"],
    ),
    Case(
        "ntt: a command",
        lambda f: ["predct", "--images", "x"],
        ["ntt has no command predct", "did you mean predict?", "write-shapes"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
