"""Other people's programs open what `ntt predict` writes: the real ones, in an environment of their own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.batch.results import found_dataset, write_results
from no_time_to_train.data.coco import encode_mask
from no_time_to_train.data.images import load_stamped_image
from no_time_to_train.results.formats.folders import write_export

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("NTT_CLIENTS_PYTHON", HERE.parents[1] / ".venv-clients" / "bin" / "python"))

# In CI their absence is an error: .ci/run installs them.
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file() and "CI" not in os.environ, reason="`make clients` installs them, in .venv-clients"
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Masks with holes and parts, in two folders and in two formats of files; what each program reads of them."""
    root = tmp_path_factory.mktemp("clients")
    names = ["one/a.jpg", "one/a.png", "two/b.png"]
    rng = np.random.default_rng(3)
    entries = []
    for number, name in enumerate(names):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (60 * number, 90, 30)).save(root / "photos" / name)
        coarse = rng.random((2, 6, 8)) < 0.6
        masks = coarse.repeat(8, axis=1).repeat(8, axis=2)
        instances = []
        for index, mask in enumerate(masks):
            ys, xs = mask.nonzero()
            box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
            found = {"category": "ab"[index], "category_id": index + 1, "bbox": box, "score": 0.5 + index / 4}
            instances.append(found | {"area": int(mask.sum()), "segmentation": encode_mask(mask)})
        entries.append({"file_name": name, "height": 48, "width": 64, "instances": instances})
    dataset = found_dataset(entries, ["a", "b"], root / "photos")
    for kind in ("rle", "polygons"):
        write_results(root / kind, dataset, polygons=kind == "polygons", stale=())
    files = [(path, load_stamped_image(path)[1]) for path in (root / "photos" / name for name in names)]
    write_export(root / "coco", "coco-polygons", dataset, files)
    paths = [root / "rle" / "predictions.json", root / "polygons" / "predictions.json", root / "coco", root / "photos"]
    # Of the project's own environment, nothing.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [PYTHON, HERE / "open_predictions.py", *paths], check=False, capture_output=True, text=True, env=own
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex("\n{\n") :])
    assert read["holes_and_parts"]["holes"] > 0
    assert read["holes_and_parts"]["parts"] > 6
    return read


@pytest.mark.parametrize("client", ["pycocotools", "pillow", "shapely", "label_studio", "datumaro", "supervision_rle"])
def test_masks_are_read_exactly(told: dict[str, Any], client: str) -> None:
    assert told[client]["instances"] == 6
    assert told[client]["least"] == 1


def test_datumaro_finds_the_images(told: dict[str, Any]) -> None:
    # a.jpg and a.png are one item to it, if they are called so.
    assert told["datumaro"]["images"] == 3
    assert told["datumaro"]["sizes_right"]


def test_polygons_are_valid(told: dict[str, Any]) -> None:
    assert told["shapely"]["valid"]


@pytest.mark.parametrize("client", ["sahi", "supervision"])
def test_holes_and_parts_stay_where_corners_are_rounded(told: dict[str, Any], client: str) -> None:
    """sahi cuts corners off to whole pixels, supervision rounds them and fills the edges: a pixel along each."""
    # Squares of 8 pixels lose at most one of their rows and one of their columns, or gain them.
    assert told[client]["least"] > (7 / 9) ** 2
