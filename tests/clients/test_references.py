"""What other people's programs write is read as the references that it holds."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import read_references
from tests.clients.test_clients import HERE, PYTHON
from tests.clients.write_references import BOXES

# In CI their absence is an error: .ci/run installs them.
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file() and "CI" not in os.environ, reason="`make clients` installs them, in .venv-clients"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [PYTHON, HERE / "write_references.py", root], check=False, capture_output=True, text=True, env=own, cwd=root
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize(
    ("form", "has_masks"),
    [
        ("datumaro/cvat", True),
        ("datumaro/cvat_boxes", False),
        ("datumaro/cvat_masks", True),
        ("datumaro/voc", True),
        ("datumaro/coco", True),
        ("datumaro/yolo_boxes", False),
        ("supervision/yolo", True),
        ("supervision/voc", False),
    ],
)
def test_what_programs_write_is_read(written: Path, form: str, has_masks: bool) -> None:
    dataset = read_references(written / form).dataset
    found = {dataset.categories_by_id[entry.category_id].name: entry for entry in dataset.annotations}
    assert list(found) == list(BOXES)
    # supervision writes its last pixel rather than its end, and Pascal VOC counts from 1.
    off = 1 if form.startswith("supervision") else 0
    for name, box in BOXES.items():
        assert np.abs(np.subtract(found[name].bbox, box)).max() <= off + 0.01  # digits that are written
        assert (found[name].segmentation is not None) == has_masks
        if has_masks and not off:
            x, y, width, height = box
            mask = decode_mask(found[name], 48, 64)
            assert mask[y : y + height, x : x + width].all()
            assert mask.sum() == width * height
