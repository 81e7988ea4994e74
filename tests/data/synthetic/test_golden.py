"""What is drawn stays what it was: shipped models, their reports and the demo's figures come from these scenes.

``python -m tests.data.synthetic.test_golden`` writes the golden file again, after a change that is meant to change it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from no_time_to_train.data.synthetic.classes import BASE_CLASSES, NOVEL_CLASSES, ShapeClass
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.data.synthetic.drawing import _BACKGROUNDS, OUTLINES, draw_background
from no_time_to_train.data.synthetic.scenes import Scene, render_scene
from no_time_to_train.data.synthetic.textures import TEXTURES
from no_time_to_train.data.synthetic.training_scenes import training_scenes

GOLDEN = Path(__file__).with_name("golden.npz")
CLASSES = (*BASE_CLASSES, *NOVEL_CLASSES)


def blocks(image: Any, count: int) -> np.ndarray:
    """Return the means of `count` x `count` blocks."""
    side = len(image) // count
    reshaped = np.asarray(image, dtype=np.float64).reshape(count, side, count, side, -1)
    means: np.ndarray = reshaped.mean(axis=(1, 3)).astype(np.float32)
    return means


def textures() -> np.ndarray:
    v, u = np.meshgrid(*[(np.arange(24, dtype=np.float32) - 11.5) / 12] * 2, indexing="ij")
    return np.stack([blocks(draw(u, v, 1 / 12, np.random.default_rng(5)), 6) for draw in TEXTURES.values()])


def lone(kind: ShapeClass, seed: int) -> Scene:
    return render_scene(np.random.default_rng([7, seed]), [kind], size=64, num_objects=(1, 1))


def crowded(seed: int) -> Scene:
    return render_scene(
        np.random.default_rng([8, seed]), NOVEL_CLASSES, size=64, num_objects=(4, 6), distractors=BASE_CLASSES
    )


def figures(scenes: list[Scene]) -> np.ndarray:
    """Return for each object its scene, class, pixels, hidden share and the mean of its rows and columns."""
    return np.array(
        [
            [
                index,
                item.class_index,
                item.mask.sum(),
                item.occluded,
                *np.mean(item.mask.nonzero(), axis=1),
            ]
            for index, scene in enumerate(scenes)
            for item in scene.instances
        ],
        dtype=np.float32,
    )


def describe() -> dict[str, np.ndarray]:
    scenes = [*(lone(kind, seed) for seed, kind in enumerate(CLASSES)), *(crowded(seed) for seed in range(16))]
    outlines = [outline for parts in OUTLINES.values() for outline, _ in parts]
    backgrounds = [draw(np.random.default_rng(seed), 32) for draw in _BACKGROUNDS for seed in range(3)]
    return {
        "outlines": np.concatenate(outlines).astype(np.float32),
        "textures": textures(),
        "patterns": np.stack([blocks(pattern, 8) for pattern in backgrounds]),
        "backgrounds": np.stack([blocks(draw_background(np.random.default_rng(s), 32), 4) for s in range(12)]),
        "scenes": np.stack([blocks(scene.image, 8) for scene in scenes]),
        "figures": figures(scenes),
    }


def test_what_is_drawn_is_what_was_drawn() -> None:
    found = describe()
    with np.load(GOLDEN) as file:
        golden = dict(file)
    assert found.keys() | {"documents", "training"} == golden.keys()
    # Other processors round float32 otherwise: 1e-6 in a plane of 0-1, one in a few pixels of 0-255.
    tolerances = {"outlines": 1e-6, "textures": 1e-4, "patterns": 1e-4, "backgrounds": 0.01, "scenes": 0.05}
    for name, tolerance in tolerances.items():
        np.testing.assert_allclose(found[name], golden[name], rtol=0, atol=tolerance, err_msg=name)
    assert found["figures"].shape == golden["figures"].shape
    # A pixel at a mask's edge may fall on either side.
    assert (np.abs(found["figures"] - golden["figures"]) < [0.5, 0.5, 2.5, 0.02, 0.3, 0.3]).all()


def documents(folder: Path) -> np.ndarray:
    """Return the images, classes, boxes and areas of a small dataset with all its parts."""
    write_shapes(folder, size=64, shots=1, num_targets=4, num_base_train=2)
    rows = []
    for part in ("references", "targets", "base_train"):
        document = json.loads((folder / f"{part}.json").read_text())
        names = [category["name"] for category in document["categories"]]
        expected = NOVEL_CLASSES if part != "base_train" else BASE_CLASSES
        assert names == [entry.name for entry in expected]
        assert [category["id"] for category in document["categories"]] == list(range(1, len(names) + 1))
        assert [item["id"] for item in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
        assert [image["id"] for image in document["images"]] == list(range(1, len(document["images"]) + 1))
        assert {item["iscrowd"] for item in document["annotations"]} == {0}
        keys = ("image_id", "category_id", "area")
        rows += [[*(item[key] for key in keys), *item["bbox"]] for item in document["annotations"]]
    return np.array(rows, dtype=np.float32)


def test_a_dataset_is_what_it_was(tmp_path: Path) -> None:
    found, golden = documents(tmp_path / "shapes"), np.load(GOLDEN)["documents"]
    assert found.shape == golden.shape
    assert (np.abs(found - golden) < [0.5, 0.5, 2.5, 1.5, 1.5, 1.5, 1.5]).all()


def training(folder: Path) -> np.ndarray:
    scenes = training_scenes(folder, size=32, count=3)
    return np.concatenate(
        [[*blocks(image, 2).ravel(), *kinds] for image, kinds in zip(scenes.images, scenes.kinds, strict=True)]
    )


def test_training_scenes_are_what_they_were(tmp_path: Path) -> None:
    np.testing.assert_allclose(training(tmp_path / "scenes"), np.load(GOLDEN)["training"], rtol=0, atol=0.05)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        more: dict[str, Any] = {
            "documents": documents(Path(root) / "shapes"),
            "training": training(Path(root) / "scenes"),
        }
    np.savez_compressed(GOLDEN, **more, **dict[str, Any](describe()))
