"""The Python API on small random models, and on stand-ins whose answers are known."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from no_time_to_train import Segmenter
from no_time_to_train.data.datasets import ReferenceDataset
from no_time_to_train.data.references import read_references, reference_set
from no_time_to_train.errors import (
    ConfigError,
    EmptyClassError,
    EmptyMaskError,
    EncoderMismatchError,
    ImageReadError,
    ImageSizeError,
    MaskSizeError,
)
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.results.reference_checks import check_references
from no_time_to_train.segmenter import FoundInstances
from tests.tiny import write_config, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


def build(folder: Path, **settings: Any) -> Segmenter:
    grid = {"points_per_side": 4, "iou_thr": 0.0}
    return Segmenter(
        "dinov3_small", sam2=str(folder), random_init=True, **{"img_size": 64, "sam2_infer_cfgs": grid, **settings}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


@pytest.fixture
def segmenter(folder: Path) -> Segmenter:
    return build(folder)


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    pixels[10:30, 10:34, seed % 3] = 240
    return pixels


def mask() -> np.ndarray:
    inside = np.zeros((48, 64), dtype=bool)
    inside[10:30, 10:34] = True
    return inside


def test_a_setting_that_is_none_is_told_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no setting 'memory_cfg' \\(nearest: memory_bank_cfg\\)"):
        build(folder, memory_cfg={})


def test_instances_are_shown_in_a_line(segmenter: Segmenter) -> None:
    found = filled(segmenter).predict(picture(0))
    names = found.names
    counted = ", ".join(f"{names.count(name)} {name}" for name in ("red", "green") if name in names)
    assert repr(found) == f"Prediction({counted}; 48x64)"
    assert repr(found.above(2.0)) == "Prediction(none; 48x64)"


def filled(segmenter: Segmenter) -> Segmenter:
    segmenter.add_reference(picture(0), mask=mask(), label="red")
    segmenter.add_reference(picture(1), mask=mask(), label="green")
    return segmenter


def same(got: FoundInstances, expected: FoundInstances) -> bool:
    return got.class_names == expected.class_names and all(
        np.array_equal(getattr(got, name), getattr(expected, name)) for name in ("masks", "boxes", "scores", "labels")
    )


def test_every_form_of_an_image_gives_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    filled(segmenter)
    pixels = picture(3)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    expected = segmenter.predict(pixels)
    assert len(expected) > 0
    for form in (tmp_path / "image.png", Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        assert same(segmenter.predict(form), expected)


def test_a_list_gives_a_list(segmenter: Segmenter) -> None:
    filled(segmenter)
    found = segmenter.predict([picture(3), picture(4, 30, 80)])
    assert [tuple(each.masks.shape[1:]) for each in found] == [(48, 64), (30, 80)]
    assert segmenter.predict([]) == []


def test_classes_come_in_the_order_of_their_labels(segmenter: Segmenter) -> None:
    filled(segmenter).add_reference(picture(2), mask=mask(), label="red")
    assert segmenter.class_names == ("red", "green")
    segmenter.predict(picture(3))
    assert segmenter.baseline.memory is not None
    assert segmenter.baseline.memory.counts() == [2, 1]


def test_references_may_come_after_a_prediction(segmenter: Segmenter) -> None:
    filled(segmenter).predict(picture(3))
    segmenter.add_reference(picture(2), mask=mask(), label="blue")
    assert segmenter.predict(picture(3)).class_names == ("red", "green", "blue")


def test_negative_references_take_score_away(segmenter: Segmenter) -> None:
    filled(segmenter)
    before = segmenter.predict(picture(1))
    everything = np.ones((48, 64), dtype=bool)
    for label in ("red", "green"):
        segmenter.add_reference(picture(1), mask=everything, label=label, negative=True)
    assert segmenter.predict(picture(1)).scores.sum() < before.scores.sum()


def test_a_class_of_negative_references_alone_is_named(segmenter: Segmenter) -> None:
    segmenter.add_reference(picture(0), mask=mask(), label="red", negative=True)
    with pytest.raises(EmptyClassError, match="red"):
        segmenter.predict(picture(0))


def test_boxes_and_points_get_their_masks_from_sam2(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    by_box = segmenter.add_reference(picture(0), box=(10, 10, 34, 30), label="red")
    assert by_box.shape == (48, 64)
    assert by_box[10:30, 10:34].any()
    assert not by_box[31:].any()
    asked: list[Tensor] = []
    best_masks = segmenter.baseline.promptable.best_masks

    def seen(image: Any, prompts: Any, **settings: Any) -> Any:
        asked.append(prompts.points)
        return best_masks(image, prompts, **settings)

    monkeypatch.setattr(segmenter.baseline.promptable, "best_masks", seen)
    by_points = segmenter.add_reference(picture(0), points=[(20, 12), (24, 24)], label="red")
    assert by_points.shape == (48, 64)
    # Of 64x48 pixels, in those of the model's square of 128.
    assert asked[0].tolist() == [[[40, 32], [48, 64]]]


def test_memory_goes_to_a_file_and_back(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    expected = filled(segmenter).predict(picture(3))
    segmenter.save_memory(tmp_path / "memory.safetensors")
    other = build(folder)
    other.load_memory(tmp_path / "memory.safetensors")
    assert same(other.predict(picture(3)), expected)
    other.add_reference(picture(2), mask=mask(), label="blue")
    assert other.class_names == ("red", "green", "blue")
    with pytest.raises(EncoderMismatchError):
        build(folder, img_size=96).load_memory(tmp_path / "memory.safetensors")


@pytest.mark.parametrize("selection", ["grid", "prior"])
def test_an_image_asked_again_needs_no_network(selection: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"points_per_side": 4, "iou_thr": 0.0, "prompt_selection": selection}
    ours, fresh = (filled(build(folder, sam2_infer_cfgs=rules)) for _ in range(2))
    first = ours.predict(picture(3))
    calls: list[str] = []
    for name in ("encode", "propose"):
        whole = getattr(MatchingPipeline, name)

        def counted(*args: Any, name: str = name, whole: Any = whole) -> Any:
            calls.append(name)
            return whole(*args)

        monkeypatch.setattr(MatchingPipeline, name, counted)
    again = ours.predict(picture(3), min_score=0.5)
    assert calls == []
    assert same(again, first.filter(0.5))
    for one in (ours, fresh):
        one.add_reference(picture(2), mask=mask(), label="blue")
    calls.clear()
    other = ours.predict(picture(3))
    # Where prompts go depends on the references, with `prior`.
    assert calls == ([] if selection == "grid" else ["propose"])
    assert same(other, fresh.predict(picture(3)))
    calls.clear()
    ours.predict(picture(1))
    assert calls == ["encode", "propose"]
    assert same(ours.predict(picture(3)), other)


def test_a_baseline_is_taken_with_its_memory(segmenter: Segmenter) -> None:
    expected = filled(segmenter).predict(picture(3))
    assert same(Segmenter.of(segmenter.baseline).predict(picture(3)), expected)


def test_segmenters_of_one_baseline_keep_their_own_references(segmenter: Segmenter) -> None:
    expected = filled(segmenter).predict(picture(3))
    segmenter.baseline.memory = None
    other = Segmenter.of(segmenter.baseline)
    other.add_reference(picture(2), mask=mask(), label="blue")
    other.predict(picture(3))
    assert same(segmenter.predict(picture(3)), expected)
    assert other.predict(picture(3)).class_names == ("blue",)


def test_a_least_score(folder: Path) -> None:
    segmenter = filled(build(folder, sam2_infer_cfgs={"points_per_side": 4, "iou_thr": 0.0, "nms_thr": 1.0}))
    found = segmenter.predict(picture(3))
    middle = float(found.scores.mean())
    kept = segmenter.predict(picture(3), min_score=middle)
    assert 0 < len(kept) < len(found)
    assert (kept.scores >= middle).all()


def test_what_is_found_goes_elsewhere(segmenter: Segmenter) -> None:
    found = filled(segmenter).predict(picture(3))
    detections = found.to_supervision()
    assert detections.mask is not None
    assert np.array_equal(detections.mask, found.masks)
    assert list(detections.data["class_name"]) == found.names
    ys, xs = found.masks[0].nonzero()
    assert detections.xyxy[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    results = found.to_coco(image_id=7, category_ids=[30, 40])
    assert len(results) == len(found)
    assert {result["image_id"] for result in results} == {7}
    assert {result["category_id"] for result in results} <= {30, 40}
    drawn = found.draw(picture(3))
    assert drawn.size == (64, 48)
    assert not np.array_equal(np.asarray(drawn), picture(3))


def test_nothing_found_goes_elsewhere_too(segmenter: Segmenter) -> None:
    found = filled(segmenter).predict(picture(3), min_score=2)
    assert len(found) == len(found.to_supervision()) == len(found.to_coco(1)) == 0
    assert np.array_equal(np.asarray(found.draw(picture(3))), picture(3))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({}, ConfigError, "a mask, a box or points"),
        ({"mask": mask(), "box": (1, 1, 5, 5)}, ConfigError, "a mask, a box or points"),
        ({"mask": mask()[:-1]}, MaskSizeError, "47, 64"),
        ({"mask": ~mask() & mask()}, EmptyMaskError, "no object"),
        ({"box": (10, 10, 8, 30)}, ConfigError, "x1 < x2"),
        ({"box": (10, 10, 65, 30)}, ConfigError, "64 wide and 48 high"),
        ({"box": (1, 2, 3)}, ConfigError, r"the box is \(1, 2, 3\), expected four numbers"),
        ({"box": (1, 2, 3, 4, 5)}, ConfigError, "expected four numbers"),
        ({"box": "1234"}, ConfigError, "'1234', expected four numbers"),
        ({"box": (None, 2, 3, 4)}, ConfigError, "expected four numbers"),
        ({"box": torch.ones(1, 4)}, ConfigError, "expected four numbers"),
        ({"box": (float("nan"), 1, 2, 3)}, ConfigError, "x1 < x2"),
        ({"points": []}, ConfigError, "at least one"),
        ({"points": np.zeros((0, 2))}, ConfigError, "at least one"),
        ({"points": 5}, ConfigError, "expected a list of points"),
        ({"points": "ab"}, ConfigError, "expected a list of points"),
        ({"points": np.ones((2, 3))}, ConfigError, "expected a list of points"),
        ({"points": torch.ones(2, device="meta")}, ConfigError, "expected a list of points"),
        ({"points": [(5, 48)]}, ConfigError, "5.0, 48.0"),
        ({"points": (20, 12)}, ConfigError, r"points are \(20, 12\), expected a list of points .*\[\(x, y\)\]"),
        ({"points": [(20, 12, 1)]}, ConfigError, "expected a list of points"),
        ({"mask": mask(), "label": ""}, ConfigError, "label"),
        ({"mask": mask(), "label": None}, ConfigError, "label as text, got None"),
        ({"mask": mask(), "label": ["red"]}, ConfigError, "label as text"),
        ({"mask": mask(), "label": "r\ud800d"}, ConfigError, r"label as text, got 'r\\ud800d'"),
        ({"mask": [[1], [2, 3]]}, ImageReadError, "mask of type list"),
    ],
)
def test_wrong_references_are_refused(
    segmenter: Segmenter, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        segmenter.add_reference(picture(0), **{"label": "red", **wrong})
    assert segmenter.class_names == ()


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, iter])
def test_boxes_and_points_come_in_any_form(segmenter: Segmenter, form: Any) -> None:
    for given in ({"box": [10, 10, 34, 30]}, {"points": [[12.0, 15.0], [20.0, 25.0]]}):
        plain = segmenter.add_reference(picture(0), label="red", **given)
        (name, value) = next(iter(given.items()))
        assert torch.equal(segmenter.add_reference(picture(0), label="red", **{name: form(value)}), plain)


@pytest.mark.parametrize("score", ["0.3", None, [0.3], float("nan"), np.array([0.1, 0.2]), True])
def test_a_least_score_is_a_number(segmenter: Segmenter, score: Any) -> None:
    found = filled(segmenter).predict(picture(0))
    with pytest.raises(ConfigError, match=r"score is .*, expected a number \(give one such as 0\.3\)"):
        found.above(score)
    with pytest.raises(ConfigError, match=r"min_score is .*, expected a number"):
        segmenter.predict(picture(0), min_score=score)
    assert same(found.above(np.float32(0.25)), found.above(torch.tensor(0.25)))  # type: ignore[arg-type] # no float


def test_what_does_not_belong_to_an_image_is_refused(segmenter: Segmenter) -> None:
    found = filled(segmenter).predict(picture(0))
    with pytest.raises(ImageSizeError, match="64 wide and 47 high, the masks are of one of 64 by 48"):
        found.draw(picture(0)[:-1])
    for opacity in (1.5, "all"):
        with pytest.raises(ConfigError, match="opacity is"):
            found.draw(picture(0), opacity=opacity)  # type: ignore[arg-type] # what is refused
    with pytest.raises(ConfigError, match=r"1 category_ids for 2 classes .*red, green"):
        found.to_coco(1, [7])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "abacus"}, "device abacus: Expected one of cpu"),
        ({"device": "meta"}, "device meta: "),
        ({"device": None}, "device is None, expected a name such as cpu"),
        ({"sam2": 3}, "sam2 is 3, expected a path"),
        ({"sam2_weights": 3}, "sam2_weights is 3, expected a path"),
        ({"encoder_weights": b"x.pth"}, "encoder_weights is b'x.pth', expected a path"),
    ],
)
def test_arguments_of_wrong_types_are_refused(folder: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Segmenter("dinov3_small", **{"sam2": str(folder), "random_init": True, **wrong})


def test_files_are_named_by_paths(segmenter: Segmenter, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    segmenter.add_references(str(data.references), str(data.images))
    for act in (segmenter.save_memory, segmenter.load_memory, lambda path: segmenter.add_references(path, data.images)):
        with pytest.raises(ConfigError, match="is 3, expected a path"):
            act(3)  # type: ignore[arg-type] # what is refused
    assert len(segmenter.references) == 4


def test_references_come_in_all_forms(segmenter: Segmenter, tmp_path: Path) -> None:
    """A point, a box and a folder by class give what the same references give one by one."""
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    (tmp_path / "refs" / "green").mkdir(parents=True)
    Image.fromarray(picture(1)).save(tmp_path / "refs" / "green" / "b.png")
    Image.fromarray(mask()).save(tmp_path / "refs" / "green" / "b_mask.png")
    segmenter.add_references([f"{tmp_path}/a.png:red@20,15", f"{tmp_path}/a.png:red@10,10,24,20", tmp_path / "refs"])
    together = segmenter.references
    assert segmenter.class_names == ("red", "green")
    segmenter.add_reference(picture(0), label="red", points=[(20, 15)])
    segmenter.add_reference(picture(0), label="red", box=(10, 10, 34, 30))
    segmenter.add_reference(picture(1), label="green", mask=mask())
    for (name, mean, _), (expected, alone, _) in zip(together, segmenter.references[3:], strict=True):
        assert name == expected
        assert torch.equal(mean, alone)
    segmenter.add_references(tmp_path / "refs", negative=True)
    assert segmenter.references[-1][2]
    found = read_references(f"{tmp_path}/a.png:red@20,15")
    (checked,) = check_references(reference_set(found.dataset), found.images, segmenter)
    item = ReferenceDataset([replace(checked.reference, annotation=checked.annotation)], found.images)[0]
    assert torch.equal(torch.from_numpy(segmenter.mean_of(item)), together[0][1])


def test_a_file_of_references_is_taken_whole_or_not_at_all(segmenter: Segmenter, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data.images / "003.jpg").write_text("no image")
    with pytest.raises(ImageReadError, match=r"003\.jpg"):
        segmenter.add_references(data.references, data.images)
    assert segmenter.references == []
    assert segmenter.class_names == ()


def test_references_are_needed(segmenter: Segmenter, tmp_path: Path) -> None:
    for act in (lambda: segmenter.predict(picture(0)), lambda: segmenter.save_memory(tmp_path / "memory.safetensors")):
        with pytest.raises(ConfigError, match="no reference yet"):
            act()
    assert not list(tmp_path.iterdir())


def test_the_package_imports_the_api_when_it_is_asked_for() -> None:
    code = "import sys, no_time_to_train as n; light = 'torch' not in sys.modules; n.Segmenter; sys.exit(not light)"
    subprocess.run([sys.executable, "-c", code], check=True)
