"""The class splits that few-shot papers publish, by name.

Names of classes are those of each benchmark's annotations: COCO's (``airplane``) in the COCO splits, PASCAL VOC's
(``aeroplane``) in the VOC splits. `VOC_TO_COCO` goes from the one to the other.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from no_time_to_train.errors import UnknownNameError

# The 80 classes of COCO's instance annotations in the order of their ids, which run from 1 to 90 with gaps.
# Source: instances_val2017.json, "categories".
_COCO80 = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)

_VOC20 = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_RENAMED_IN_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}

VOC_TO_COCO: Mapping[str, str] = MappingProxyType({name: _RENAMED_IN_COCO.get(name, name) for name in _VOC20})
"""COCO's name of each of the 20 classes of PASCAL VOC."""

# Source: Kang et al. 2019, "Few-shot Object Detection via Feature Reweighting" (arXiv 1812.01866), section 4.1, and
# Wang et al. 2020, "Frustratingly Simple Few-Shot Object Detection" (arXiv 2003.06957), the benchmark in use since.
_VOC_NOVEL = (
    ("bird", "bus", "cow", "motorbike", "sofa"),
    ("aeroplane", "bottle", "cow", "horse", "sofa"),
    ("boat", "cat", "motorbike", "sheep", "sofa"),
)


def _all_splits() -> dict[str, tuple[str, ...]]:
    in_voc = set(VOC_TO_COCO.values())
    splits = {
        "coco80": _COCO80,
        # Source: the same two papers: novel are the classes that COCO shares with PASCAL VOC.
        "coco_fewshot_novel20": tuple(name for name in _COCO80 if name in in_voc),
        "coco_fewshot_base60": tuple(name for name in _COCO80 if name not in in_voc),
    }
    # Source: Nguyen and Todorovic 2019, "Feature Weighting and Boosting for Few-Shot Segmentation" (arXiv 1909.13140):
    # fold f tests on every fourth class from the f-th on. HSNet (arXiv 2104.01538) and its successors use the same.
    for fold in range(4):
        splits[f"coco20i_fold{fold}"] = _COCO80[fold::4]
    for number, novel in enumerate(_VOC_NOVEL, start=1):
        splits[f"voc_novel_split{number}"] = novel
        splits[f"voc_base_split{number}"] = tuple(name for name in _VOC20 if name not in novel)
    return splits


SPLITS: Mapping[str, tuple[str, ...]] = MappingProxyType(_all_splits())
"""Class names by the name of the split, in the order that gives the class indices."""


def resolve_split(name: str) -> tuple[str, ...]:
    """Return the class names of a published split.

    Raises:
        UnknownNameError: There is no such split; the message names the nearest.

    Examples:
        >>> resolve_split("voc_novel_split1")
        ('bird', 'bus', 'cow', 'motorbike', 'sofa')
    """
    if name in SPLITS:
        return SPLITS[name]
    nearest = difflib.get_close_matches(name, SPLITS, n=1, cutoff=0.0)[0]
    raise UnknownNameError(
        f"no split is called {name!r}, did you mean {nearest}?", remedy=f"the splits are {', '.join(SPLITS)}"
    )
