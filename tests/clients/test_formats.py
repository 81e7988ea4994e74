"""Other people's programs open the folders of `ntt predict --format`: masks, classes, scores, names and boxes."""

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.batch.results import found_dataset
from no_time_to_train.data.coco import encode_mask
from no_time_to_train.results.formats.folders import write_export
from no_time_to_train.results.formats.table import FORMATS
from tests.clients.test_clients import HERE, PYTHON
from tests.results.found import stamped

# In CI their absence is an error: .ci/run installs them.
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file() and "CI" not in os.environ, reason="`make clients` installs them, in .venv-clients"
)
CLASSES = ["red apple", "Ärger: 2"]
IMAGES = ["one/a.jpg", "one/a.png", "two three/ü #1.png", "empty.png"]
# Squares of 8 pixels lose at most one of their rows and one of their columns, or gain them.
ROUNDED = (7 / 9) ** 2


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overlapping masks with holes and parts; names with spaces and umlauts; what each program reads of them."""
    root, rng = tmp_path_factory.mktemp("formats"), np.random.default_rng(3)
    entries = []
    for name in IMAGES:
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / "in" / name)
        instances = []
        for index in range(3 if name != "empty.png" else 0):
            mask = (rng.random((6, 8)) < 0.6).repeat(8, axis=0).repeat(8, axis=1)
            found = {"category": CLASSES[index % 2], "category_id": index % 2 + 1, "bbox": [0.0, 0.0, 1.0, 1.0]}
            found |= {"score": 0.9 - index / 4, "area": int(mask.sum()), "segmentation": encode_mask(mask)}
            instances.append(found)
        entries.append({"file_name": name, "height": 48, "width": 64, "instances": instances})
    dataset = found_dataset(entries, CLASSES, root / "in")
    for form in FORMATS:
        write_export(root / form, form, dataset, stamped([root / "in" / name for name in IMAGES]))
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [PYTHON, HERE / "open_formats.py", root]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=own, cwd=root)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])
    return read


@pytest.mark.parametrize("reader", ["coco-polygons datumaro", "labelstudio label_studio"])
def test_masks_are_read_exactly(told: dict[str, Any], reader: str) -> None:
    assert told[reader]["instances"] == 9
    assert told[reader]["least"] == 1


@pytest.mark.parametrize("reader", ["voc datumaro", "masks opencv"])
def test_what_is_under_no_better_instance_is_read_exactly(told: dict[str, Any], reader: str) -> None:
    assert told[reader]["instances"] == 9
    assert told[reader]["least"] == 1


def test_labelme_is_read_but_for_rounded_corners(told: dict[str, Any]) -> None:
    """Supervision rounds corners to whole pixels, and fills the edges too."""
    assert told["labelme supervision"]["least"] > ROUNDED
    # Where it is installed, which takes Qt: its filler takes a pixel's corner for its center, and fills the edges.
    itself = told["labelme labelme"]
    assert "missing" in itself or (itself["least"] > ROUNDED and itself["scores"])


def test_yolo_is_read_but_for_rounded_corners_and_lines_between_parts(told: dict[str, Any]) -> None:
    """A line of a pixel's width joins a part of 64 pixels or more to its neighbor, which is some 8 pixels away."""
    assert told["yolo-seg supervision"]["instances"] == 9
    assert told["yolo-seg supervision"]["least"] > ROUNDED / (1 + 9 / 64)
    # Where it is installed, which takes torch: it cuts coordinates off to whole pixels, and fills the edges too.
    itself = told["yolo-seg ultralytics"]
    assert "missing" in itself or itself["least"] > ROUNDED / (1 + 9 / 64)


@pytest.mark.parametrize("reader", ["voc datumaro", "labelstudio label_studio", "masks opencv"])
def test_scores_are_kept(told: dict[str, Any], reader: str) -> None:
    assert told[reader]["scores"]


@pytest.mark.parametrize("reader", ["voc datumaro", "voc supervision"])
def test_boxes_of_pascal_voc_are_exact(told: dict[str, Any], reader: str) -> None:
    assert told[reader]["boxes"]


def test_datumaro_finds_the_images_of_pascal_voc(told: dict[str, Any]) -> None:
    assert told["voc datumaro"]["images"] == 4
    assert told["voc datumaro"]["sizes_right"]


def test_label_studio_takes_the_predictions_for_its_interface(told: dict[str, Any]) -> None:
    assert told["labelstudio label_studio"]["errors"] == []
