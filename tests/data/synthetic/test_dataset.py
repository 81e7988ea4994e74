import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import load_references
from no_time_to_train.data.synthetic import dataset as shapes
from no_time_to_train.data.synthetic.classes import PALETTES
from no_time_to_train.data.synthetic.dataset import BASE_CLASSES, NOVEL_CLASSES, ShapesPaths, render_scene, write_shapes
from no_time_to_train.data.synthetic.drawing import OUTLINES
from no_time_to_train.data.synthetic.textures import TEXTURES
from no_time_to_train.errors import ConfigError, OutputError


def written(root: Path, **changes: Any) -> ShapesPaths:
    return write_shapes(root, **{"size": 64, "shots": 2, "num_targets": 6, **changes})


def test_classes_are_new_and_share_their_colours_in_pairs() -> None:
    assert (len(BASE_CLASSES), len(NOVEL_CLASSES)) == (24, 8)
    everything = (*BASE_CLASSES, *NOVEL_CLASSES)
    assert len({entry.name for entry in everything}) == 32
    assert len({(entry.shape, entry.texture) for entry in everything}) == 32
    assert all(
        entry.shape in OUTLINES and entry.texture in TEXTURES and entry.palette in PALETTES for entry in everything
    )
    base_shapes, base_textures = ({getattr(e, name) for e in BASE_CLASSES} for name in ("shape", "texture"))
    assert all(entry.shape not in base_shapes or entry.texture not in base_textures for entry in NOVEL_CLASSES)
    palettes = [entry.palette for entry in NOVEL_CLASSES]
    assert {palettes.count(palette) for palette in palettes} == {2}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first, again, other = (written(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    files = sorted(path.relative_to(first.root) for path in first.root.rglob("*.*"))
    assert files == sorted(path.relative_to(again.root) for path in again.root.rglob("*.*"))
    assert all((first.root / name).read_bytes() == (again.root / name).read_bytes() for name in files)
    assert first.targets_json.read_bytes() != other.targets_json.read_bytes()


def test_more_images_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    few, many = written(tmp_path / "few"), written(tmp_path / "many", shots=3, num_targets=9)
    for path in (few.image_dir / "targets").iterdir():
        assert path.read_bytes() == (many.image_dir / "targets" / path.name).read_bytes()
    for path in (few.image_dir / "references").iterdir():
        assert path.read_bytes() == (many.image_dir / "references" / path.name).read_bytes()


def test_references_are_one_object_a_picture_and_enough_of_each_class(tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes")
    references = load_references(paths.references_json)
    assert references.class_names == tuple(entry.name for entry in NOVEL_CLASSES)
    per_class = np.bincount([reference.class_index for reference in references.references])
    assert per_class.tolist() == [2] * 8
    assert len({reference.image.id for reference in references.references}) == 16


def test_masks_boxes_and_areas_agree_and_nothing_overlaps(tmp_path: Path) -> None:
    dataset = load_coco(written(tmp_path / "shapes", num_base_train=4).targets_json)
    assert len(dataset.annotations) >= 6
    for image in dataset.images:
        covered = np.zeros((image.height, image.width), dtype=int)
        for annotation in dataset.annotations_of(image.id):
            mask = decode_mask(annotation, image.height, image.width)
            covered += mask
            ys, xs = mask.nonzero()
            assert annotation.area == mask.sum()
            assert list(annotation.bbox) == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert covered.max() == 1
        with Image.open(tmp_path / "shapes" / "images" / image.file_name) as picture:
            assert (picture.format, picture.size) == ("JPEG", (64, 64))
    base = load_coco(tmp_path / "shapes" / "base_train.json")
    assert base.class_names == tuple(entry.name for entry in BASE_CLASSES)


def test_masks_lie_on_their_objects() -> None:
    """A lone plain red object on its mask is redder than the picture around it."""
    plain_red = [entry for entry in BASE_CLASSES if entry.name == "plain_cross_red"]
    redder = []
    for seed in range(12):
        scene = render_scene(np.random.default_rng(seed), plain_red, size=64, num_objects=(1, 1))
        redness = scene.image[..., 0].astype(float) - scene.image[..., 1:].mean(axis=-1)
        mask = scene.instances[0].mask
        redder.append(redness[mask].mean() > redness[~mask].mean() + 20)
    # A background may be red itself.
    assert sum(redder) >= 10


def test_distractors_are_drawn_and_not_annotated() -> None:
    counts = []
    for distractors in ((), BASE_CLASSES):
        scenes = [
            render_scene(np.random.default_rng(s), NOVEL_CLASSES, size=64, num_objects=(4, 4), distractors=distractors)
            for s in range(20)
        ]
        assert all(scene.instances for scene in scenes)
        counts.append(sum(len(scene.instances) for scene in scenes))
    assert counts[1] < counts[0]


def test_a_second_call_writes_nothing_and_another_dataset_takes_its_place(tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes")
    before = paths.targets_json.stat()
    assert written(tmp_path / "shapes") == paths
    assert paths.targets_json.stat().st_mtime_ns == before.st_mtime_ns
    written(tmp_path / "shapes", num_targets=3)
    assert len(load_coco(paths.targets_json).images) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_damaged_dataset_is_written_anew(tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes")
    whole = paths.targets_json.read_bytes()
    paths.targets_json.write_bytes(whole[: len(whole) // 2])
    written(tmp_path / "shapes")
    assert paths.targets_json.read_bytes() == whole


@pytest.mark.parametrize("name", ["images/targets/00001.jpg", "images/references/00000.jpg", "references.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "another's"])
def test_a_dataset_with_a_damaged_file_is_written_anew(name: str, damage: str, tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes")
    file = paths.root / name
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        file.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    else:
        file.write_bytes((paths.root / "images/targets/00000.jpg").read_bytes())
    written(tmp_path / "shapes")
    assert file.read_bytes() == whole


def test_files_of_others_are_not_lost_with_a_dataset_that_is_written_anew(tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes")
    mine = paths.root / "images" / "notes.txt"
    mine.write_text("mine")
    assert written(tmp_path / "shapes") == paths
    paths.targets_json.unlink()
    with pytest.raises(OutputError, match=r"shapes is to be .* holds images/notes\.txt, which .* \(move it away"):
        written(tmp_path / "shapes")
    mine.unlink()
    written(tmp_path / "shapes")
    assert paths.targets_json.is_file()


def test_an_interrupted_write_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = written(tmp_path / "shapes")
    whole = paths.targets_json.read_bytes()
    drawn = []

    def interrupted(*args: Any, **kwargs: Any) -> shapes.Scene:
        drawn.append(1)
        if len(drawn) > 30:
            raise KeyboardInterrupt
        return render_scene(*args, **kwargs)

    monkeypatch.setattr(shapes, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "shapes", num_targets=60)
    assert paths.targets_json.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="new or an empty folder"):
        written(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_wrong_parameters(tmp_path: Path) -> None:
    for changes in ({"shots": 0}, {"num_targets": 0}, {"classes": "old"}, {"size": 16}):
        with pytest.raises(ConfigError):
            written(tmp_path / "shapes", **changes)
    assert not list(tmp_path.iterdir())


def test_manifest_says_what_was_written(tmp_path: Path) -> None:
    paths = written(tmp_path / "shapes", seed=5)
    assert json.loads((paths.root / "manifest.json").read_text())["parameters"]["seed"] == 5
