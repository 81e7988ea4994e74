"""The way from references to average precision, with features and masks that are right by construction.

Real encoders and SAM2 have tests of their own; here colours stand in for features, and thresholds for masks, so that
everything between them has to be right for a precision near 1: crops, grids, classes, sizes, categories, results.
"""

import json
from pathlib import Path

import pytest

from no_time_to_train.configs.pipeline import AmgConfig, EncoderConfigArgs, MatcherConfig, Sam2InferConfig
from no_time_to_train.errors import ConfigError
from tests.pl_wrapper.colours import colour_config, run_colours
from tests.tiny import TinyData, write_dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "here", targets=8)


@pytest.fixture
def config(tmp_path: Path) -> MatcherConfig:
    return colour_config(tmp_path)


def run(config: MatcherConfig, data: TinyData, folder: Path, targets: Path) -> dict[str, dict[str, float]]:
    logged, _ = run_colours(config, data, folder, targets)
    metrics: dict[str, dict[str, float]] = json.loads((folder / "metrics.json").read_text())
    assert logged["segm/AP"] == pytest.approx(metrics["segm"]["AP"])
    return metrics


def test_right_features_and_masks_give_a_precision_near_one(
    config: MatcherConfig, data: TinyData, tmp_path: Path
) -> None:
    metrics = run(config, data, tmp_path, data.targets)
    # JPEG and resizing cost the edges of objects of some 15 pixels, nothing more.
    assert metrics["segm"]["AP50"] == 1
    assert metrics["bbox"]["AP50"] == 1
    assert metrics["segm"]["AP"] > 0.7


def test_categories_are_matched_by_name(config: MatcherConfig, data: TinyData, tmp_path: Path) -> None:
    """The targets may number and order their categories otherwise than the references."""
    document = json.loads(data.targets.read_text())
    document["categories"] = [{"id": 40, "name": "square"}, {"id": 11, "name": "other"}, {"id": 3, "name": "disc"}]
    for annotation in document["annotations"]:
        annotation["category_id"] = {3: 3, 7: 40}[annotation["category_id"]]
    (tmp_path / "renumbered.json").write_text(json.dumps(document))
    assert run(config, data, tmp_path, tmp_path / "renumbered.json")["segm"]["AP50"] == 1
    found = {result["category_id"] for result in json.loads((tmp_path / "results.json").read_text())}
    assert found == {3, 40}


def test_swapped_references_give_no_precision(config: MatcherConfig, data: TinyData, tmp_path: Path) -> None:
    """What the test above shows hangs on the references: with their names swapped, nothing is right."""
    document = json.loads(data.targets.read_text())
    for category in document["categories"]:
        category["name"] = {"disc": "square", "square": "disc"}[category["name"]]
    (tmp_path / "swapped.json").write_text(json.dumps(document))
    assert run(config, data, tmp_path, tmp_path / "swapped.json")["segm"]["AP50"] < 0.1


def test_settings_of_the_other_baseline_are_refused() -> None:
    encoder = EncoderConfigArgs("dinov3_small")
    with pytest.raises(ConfigError, match="sam2_amg_cfg has no place in matching_baseline_noAMG"):
        MatcherConfig("matching_baseline_noAMG", "sam2_hiera_t.yaml", encoder, sam2_amg_cfg=AmgConfig())
    with pytest.raises(ConfigError, match="sam2_infer_cfgs has no place in matching_baseline"):
        MatcherConfig("matching_baseline", "sam2_hiera_t.yaml", encoder, sam2_infer_cfgs=Sam2InferConfig())
