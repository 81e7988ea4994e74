"""The report of the shipped models, run whole on small stand-ins, and its parts on answers known beforehand."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jaxtyping import UInt8
from torch import Tensor

from no_time_to_train.cli import main
from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.images import load_image
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.errors import ConfigError
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.proposers.base import MaskProposals
from no_time_to_train.training.quickstart import report
from no_time_to_train.training.quickstart.report import build_baseline, fill_memories, measure
from tests.tiny import write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")

KEYS = {
    "sam2": {"best_of_3_base", "best_of_3_novel", "top_scored", "box"},
    "encoder": {"novel_1shot", "novel_5shot"},
    "ap": {"no_distractors", "distractors", "mean_colour_no_distractors", "mean_colour_distractors"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML as the shipped one, of random stand-ins."""
    folder = tmp_path_factory.mktemp("report")
    model = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": str(write_config(folder / "sam2")),
        "sam2_infer_cfgs": {"points_per_side": 3, "iou_thr": 0.0},
        "encoder_cfg": {"name": "dinov3_quickstart", "img_size": 64},
        "memory_bank_cfg": {"crop_scale": 2.0},
        "random_init": True,
    }
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"model_cfg": model}}}))
    return path


def test_report_as_json_and_as_text(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 240 references are drawn, which takes most of the time where they are large.
    monkeypatch.setattr(report, "fill_memories", partial(fill_memories, size=64))
    arguments = ["quickstart-report", "--settings", str(config), "--num-images", "2", "--seed", "5"]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {*KEYS, "seconds_per_image"}
    assert all(set(figures[name]) == keys for name, keys in KEYS.items())
    assert all(0 <= value <= 1 for name in ("sam2", "encoder") for value in figures[name].values())
    assert all(0 <= value <= 100 for value in figures["ap"].values())
    assert figures["sam2"]["best_of_3_base"] > 0
    assert figures["seconds_per_image"] > 0
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"top-scored {figures['sam2']['top_scored']:.3f}" in text
    assert f"by mean colour {figures['ap']['mean_colour_no_distractors']:.1f}" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "absent"), ("model: 3", "does not describe"), ("- [", "does not describe"), ("amg", "not of matching")],
)
def test_bad_configurations_are_one_line(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "absent.yaml"
    if content == "amg":
        content = yaml.safe_dump({"model": {"init_args": {"model_cfg": {"name": "matching_baseline"}}}})
    if content is not None:
        path.write_text(content)
    assert main(["quickstart-report", "--settings", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(ConfigError):
        build_baseline(path)


def test_nothing_to_measure_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart-report", "--settings", str(config), "--num-images", "1"]) == 2
    assert "cannot measure 1 images" in capsys.readouterr().err


class Knowing:
    """Stands for the models: its features are colours of classes, its masks the true ones."""

    def __init__(self, baseline: MatchingPipeline, truth: Path, images: Path) -> None:
        self.baseline = baseline
        dataset = load_coco(truth)
        self.answers: dict[bytes, tuple[Tensor, Tensor]] = {}
        for record in dataset.images:
            entries = dataset.annotations_of(record.id)
            masks = torch.stack([torch.from_numpy(decode_mask(e, record.height, record.width)) for e in entries])
            labels = torch.tensor([dataset.class_indices[entry.category_id] for entry in entries])
            with load_image(images / record.file_name) as image:
                self.answers[image.tobytes()] = masks, labels

    def _answer(self, image: UInt8[Tensor, "3 H W"]) -> tuple[Tensor, Tensor]:
        return self.answers[image.permute(1, 2, 0).contiguous().numpy().tobytes()]

    def propose(self, images: list[Tensor], patches: list[Tensor]) -> list[MaskProposals]:
        del patches
        answers = [self._answer(image)[0] for image in images]
        return [MaskProposals(masks.float() * 20 - 10, torch.ones(len(masks))) for masks in answers]

    def encode(self, image: UInt8[Tensor, "3 H W"]) -> Tensor:
        masks, labels = self._answer(image)
        features = torch.full((*image.shape[1:], 128), 1e-3)
        for mask, label in zip(masks, labels, strict=True):
            features[mask] = torch.nn.functional.one_hot(label, 128).float()
        return features

    def encode_reference(self, image: Tensor, mask: Tensor, box: Any) -> tuple[Tensor, Tensor]:
        raise AssertionError("references are filled by the test")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.baseline, name)


def test_right_answers_are_worth_everything_and_swapped_ones_nothing(config: Path, tmp_path: Path) -> None:
    baseline = build_baseline(config)
    paths = write_shapes(tmp_path / "targets", seed=3, size=64, shots=1, num_targets=6, distractors=False)
    memories = fill_memories(baseline, tmp_path / "references", seed=4, shots=(1, 2), size=64)
    assert memories.encoder[1].counts() == [1] * 8
    assert memories.encoder[2].counts() == memories.colour[2].counts() == [2] * 8
    knowing: Any = Knowing(baseline, paths.targets_json, paths.image_dir)
    for shift, expected in ((0, 1.0), (1, 0.0)):
        bank = baseline.start_memory(memories.encoder[1].class_names)
        for index in range(8):
            bank.add_mean(index, torch.nn.functional.one_hot(torch.tensor((index + shift) % 8), 128).float())
        bank.finalize()
        known = type(memories)({1: bank}, {1: memories.colour[1]})
        figures = measure(knowing, [known], paths, ap_shots=(1,))
        assert figures.accuracy[1] == expected
        assert figures.ap[1] == pytest.approx(100 * expected, abs=1e-6)
    assert 0 <= figures.ap_colour[1] <= 100
    assert 0 < figures.accuracy_colour[1] < 1
