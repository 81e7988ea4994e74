"""A promptable model that is not SAM2 goes through everything: both pipelines, the cache, the API, `ntt predict`."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml

from no_time_to_train import Segmenter
from no_time_to_train.cli import main
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.proposers import factory
from no_time_to_train.proposers.base import MaskProposer, PromptableModel
from tests.proposers.toy import ToyPromptable, build_toy
from tests.tiny import write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
ENCODER = {"name": "dinov3_small", "img_size": 64}
GRIDS: dict[str, dict[str, Any]] = {
    "grid": {"name": "matching_baseline_noAMG", "sam2_infer_cfgs": {"points_per_side": 4}},
    "prior": {
        "name": "matching_baseline_noAMG",
        "sam2_infer_cfgs": {"points_per_side": 4, "prompt_selection": "prior"},
    },
    "automatic": {
        "name": "matching_baseline",
        "sam2_amg_cfg": {"points_per_side": 4, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.0},
    },
}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory.BUILDERS, "toy", build_toy)


def picture() -> np.ndarray:
    pixels = np.full((48, 64, 3), 60, dtype=np.uint8)
    pixels[8:24, 8:32] = (220, 30, 30)
    pixels[28:44, 36:60] = (30, 220, 30)
    return pixels


def build(kind: str, **settings: Any) -> Segmenter:
    config = {"sam2_cfg_file": "toy:small", "encoder_cfg": ENCODER, "random_init": True, **GRIDS[kind], **settings}
    segmenter = Segmenter.of(MatchingPipeline(MatcherConfig.from_settings(**config)))
    segmenter.add_reference(picture(), box=(8, 8, 32, 24), label="red")
    segmenter.add_reference(picture(), points=[(50, 40)], label="green")
    return segmenter


def toy(segmenter: Segmenter) -> ToyPromptable:
    return cast(ToyPromptable, segmenter.baseline.promptable)


@pytest.mark.parametrize("kind", GRIDS)
def test_the_parts_keep_to_the_protocols(kind: str) -> None:
    segmenter = build(kind)
    assert isinstance(segmenter.baseline.promptable, PromptableModel)
    assert isinstance(segmenter.baseline.proposer, MaskProposer)


def test_references_are_drawn_by_it() -> None:
    segmenter = build("grid")
    drawn = segmenter.add_reference(picture(), points=[(20, 16)], label="red").numpy()
    assert drawn[10:22, 10:30].all()
    assert not drawn[28:].any()


@pytest.mark.parametrize("kind", GRIDS)
def test_objects_are_found_with_its_masks(kind: str) -> None:
    found = build(kind).predict(picture())
    truth = np.zeros((48, 64), dtype=bool)
    truth[8:24, 8:32] = True
    overlap = (found.masks & truth).sum(axis=(1, 2)) / (found.masks | truth).sum(axis=(1, 2))
    # Its masks are of 32 by 32 pixels: borders are a pixel off.
    assert overlap.max() > 0.75


@pytest.mark.parametrize("kind", GRIDS)
def test_the_cache_takes_its_embeddings_and_masks(kind: str, tmp_path: Path) -> None:
    first, second = (build(kind, feature_cache={"folder": tmp_path}) for _ in range(2))
    expected = first.predict(picture())
    assert toy(first).embedded == 1
    found = second.predict(picture())
    assert toy(second).embedded == 0
    assert np.array_equal(found.masks, expected.masks)
    assert np.array_equal(found.scores, expected.scores)


def test_a_precision_and_random_weights_are_told() -> None:
    segmenter = build("grid", precision="bf16")
    assert toy(segmenter).precision == torch.bfloat16
    assert segmenter.baseline.random_weights == ["encoder"]


def test_ntt_predict_runs_with_it(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    config = {"sam2_cfg_file": "toy:small", "encoder_cfg": ENCODER, "random_init": True, **GRIDS["grid"]}
    settings = {"model": {"init_args": {"model_cfg": config}}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["predict", "--config", str(tmp_path / "toy.yaml"), "--images", str(data.images)]
    arguments += ["--references", str(data.references), "--reference-images", str(data.images), "--report", "true"]
    assert main([*arguments, "--output", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(found["annotations"]) > 0
    page = (tmp_path / "found" / "report.html").read_text()
    assert "Toy" in page
    assert "SAM2" not in page
