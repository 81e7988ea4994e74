"""The readers of references that are not COCO JSON."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from no_time_to_train.data.datasets import ReferenceDataset
from no_time_to_train.data.references import read_references, reference_set
from tests.data.references import forms
from tests.fuzz.forms import Target, the_whole
from tests.fuzz.mutation import Form


def _target(content: str, name: str, beside: Callable[[Path], object]) -> Target:
    def read(path: Path) -> None:
        found = read_references(path.parents[name.count("/")])
        items = ReferenceDataset(reference_set(found.dataset).references, found.images)
        for index in range(len(items)):
            mask = items[index].mask
            assert mask is None or mask.shape == (forms.HEIGHT, forms.WIDTH)

    return Target(Form(({name: content.encode()},), the_whole), name, read, beside)


def _labelme() -> Target:
    return _target(json.dumps(forms.labelme_document()), "a.json", lambda root: forms.picture(root / "a.jpg"))


def _yolo() -> Target:
    return _target(forms.yolo_rows(), "labels/train/a.txt", forms.yolo)


def _yolo_names() -> Target:
    return _target(json.dumps({"names": ["pear", "plum", "apple"]}), "data.yaml", forms.yolo)


def _voc() -> Target:
    return _target(forms.voc_document(), "Annotations/a.xml", lambda root: forms.voc(root, masks=True))


def _cvat() -> Target:
    return _target(forms.cvat_document(), "annotations.xml", forms.cvat)


REFERENCE_FILES: Mapping[str, Callable[[], Target]] = {
    "labelme": _labelme,
    "yolo": _yolo,
    "yolo_names": _yolo_names,
    "voc": _voc,
    "cvat": _cvat,
}
