"""A run's fingerprint changes with its settings, weights and references, and not with the weights' path."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.models.steps import run_fingerprint
from tests.models.test_pipeline import QUICKSTART, build

References = list[tuple[str, Tensor, bool]]
ONE, OTHER = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
REFERENCES: References = [("cat", ONE, False), ("dog", OTHER, False)]


@pytest.fixture(scope="module")
def pipeline() -> MatchingPipeline:
    return build()


def test_everything_that_decides_a_result_counts(pipeline: MatchingPipeline) -> None:
    others: list[References] = [
        [],
        REFERENCES[:1],
        REFERENCES[::-1],
        [("cat", ONE, False), ("dog", OTHER, True)],
        [("cat", ONE, False), ("fox", OTHER, False)],
        [("cat", ONE, False), ("dog", ONE, False)],
    ]
    settings: list[dict[str, Any]] = [
        {"sam2_infer_cfgs": {"points_per_side": 5}},
        {"encoder_cfg": {"name": "dinov3_quickstart", "img_size": 64}},
        {"memory_bank_cfg": {"negative_sigma": 0.3}},
        {"name": "matching_baseline"},
    ]
    found = [run_fingerprint(pipeline, references, 0.3) for references in (REFERENCES, *others)]
    found += [run_fingerprint(build(**some), REFERENCES, 0.3) for some in settings]
    found.append(run_fingerprint(pipeline, REFERENCES, 0.31))
    assert len(set(found)) == len(found) == 12
    assert all(len(each) == 16 for each in found)


def test_other_weights_of_the_promptable_model_count(pipeline: MatchingPipeline) -> None:
    other = build()
    assert run_fingerprint(other, REFERENCES, 0.3) == run_fingerprint(pipeline, REFERENCES, 0.3)
    other.promptable.get_buffer("widths").mul_(2)  # type: ignore[attr-defined] # of a torch module
    assert run_fingerprint(other, REFERENCES, 0.3) != run_fingerprint(pipeline, REFERENCES, 0.3)


def test_where_weights_and_the_cache_are_does_not_count(pipeline: MatchingPipeline, tmp_path: Path) -> None:
    expected = run_fingerprint(pipeline, REFERENCES, 0.3)
    copies = [tmp_path / "one", tmp_path / "other"]
    for copy in copies:
        shutil.copytree(QUICKSTART / "encoder", copy)
    moved = build(encoder_ckpt_path=copies[0], feature_cache={"folder": tmp_path / "cache", "max_gb": 0.5})
    assert moved.features.cache is not None
    assert moved.features.cache.max_bytes == 500_000_000
    assert run_fingerprint(moved, REFERENCES, 0.3) == expected
    # An encoder that is named by its folder.
    named = [build(encoder_cfg={"name": str(copy), "img_size": 32}, encoder_ckpt_path=None) for copy in copies]
    assert len({run_fingerprint(each, REFERENCES, 0.3) for each in named}) == 1
