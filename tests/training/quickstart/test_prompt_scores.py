"""The measure of SAM2: clicks, boxes and IoU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from no_time_to_train.data.synthetic.dataset import BASE_CLASSES
from no_time_to_train.proposers.sam2.predictor import MaskPredictions, Sam2Predictor, build_sam2
from no_time_to_train.training.quickstart.prompt_scores import innermost_pixel, score_prompts
from tests.tiny import write_config


def test_the_innermost_pixel() -> None:
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4:13, 10:15] = True
    x, y = innermost_pixel(mask).tolist()
    assert x == 12
    assert 6 <= y <= 10
    mask[:] = False
    mask[0:7, 0:7] = True  # the image's border is a border too
    assert innermost_pixel(mask).tolist() == [3.0, 3.0]


@pytest.fixture
def sam2(tmp_path: Path) -> Sam2Predictor:
    with pytest.warns(UserWarning, match="random weights"):
        return build_sam2(write_config(tmp_path / "sam2"), random_init=True)


def test_an_oracle_scores_high_and_the_choice_is_the_predicted_one(
    sam2: Sam2Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SAM2 that knows the scenes: its second mask is right, and its boxes are asked for a single mask."""
    from no_time_to_train.data.synthetic.dataset import render_scene
    from no_time_to_train.training.quickstart import prompt_scores as prompting

    scenes = iter([render_scene(np.random.default_rng([7, 5, index]), BASE_CLASSES, size=64) for index in range(3)])
    current: dict[str, torch.Tensor] = {}

    def embed(pixels: torch.Tensor) -> None:
        scene = next(scenes)
        current["masks"] = torch.from_numpy(np.stack([entry.mask for entry in scene.instances])).float() * 20 - 10

    def points(embedding: None, clicks: torch.Tensor, labels: torch.Tensor) -> MaskPredictions:
        masks = current["masks"]
        at = (clicks[:, 0] * 64 / sam2.image_size).long()
        assert bool((masks[torch.arange(len(masks)), at[:, 1], at[:, 0]] > 0).all())
        wrong = torch.full_like(masks, -10.0)
        return MaskPredictions(torch.stack((wrong, masks, wrong), dim=1), torch.tensor([[0.9, 0.5, 0.1]] * len(masks)))

    def boxes(embedding: None, corners: torch.Tensor, *, multimask: bool) -> MaskPredictions:
        assert not multimask
        return MaskPredictions(current["masks"][:, None], torch.ones(len(corners), 1))

    monkeypatch.setattr(sam2, "embed", embed)
    monkeypatch.setattr(sam2, "decode_points", points)
    monkeypatch.setattr(sam2, "decode_boxes", boxes)
    scores = prompting.score_prompts(sam2, BASE_CLASSES, seed=7, num_images=3, size=64)
    assert scores.best_of_3 == scores.box == [1.0] * len(scores.box)
    assert scores.top_scored == [0.0] * len(scores.box)


def test_the_same_seed_gives_the_same_scores(sam2: Sam2Predictor) -> None:
    first, second = (score_prompts(sam2, BASE_CLASSES, seed=1, num_images=2, size=64) for _ in range(2))
    assert first == second
    assert all(0 <= value <= 1 for value in first.best_of_3 + first.box)
    assert all(best >= top for best, top in zip(first.best_of_3, first.top_scored, strict=True))
