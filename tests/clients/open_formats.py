"""Open the folders of `ntt predict --format` with other people's programs, and print what they read as JSON.

Runs in the environment of requirements.txt, in which no_time_to_train is not installed:

    python open_formats.py FOLDER

FOLDER has `coco`, with masks as RLE, and folders of other forms, of the same instances; those that are there are read.
Masks of all programs are compared with those of `coco`, as pycocotools decodes them. Where a form has one instance at a
pixel, that is the best one, and the others are compared without such pixels.
"""

import csv
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

# The image's name without ending, the class, and the number among those of the class in the image, best first.
Key = tuple[str, str, int]
Masks = dict[Key, np.ndarray]


class Truth:
    """What was found, as the COCO JSON says."""

    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / "coco" / "annotations" / "instances_default.json").read_text())
        self.classes = [category["name"] for category in document["categories"]]
        self.stems = {image["id"]: str(Path(image["file_name"]).with_suffix("")) for image in document["images"]}
        self.sizes = {self.stems[image["id"]]: (image["height"], image["width"]) for image in document["images"]}
        names = {category["id"]: category["name"] for category in document["categories"]}
        self.masks: Masks = {}
        self.visible: Masks = {}
        self.scores: dict[Key, float] = {}
        self.ranked: dict[str, list[Key]] = {stem: [] for stem in self.sizes}
        taken: dict[str, np.ndarray] = {stem: np.zeros(size, dtype=bool) for stem, size in self.sizes.items()}
        for entry in sorted(document["annotations"], key=lambda entry: -entry["score"]):
            stem = self.stems[entry["image_id"]]
            key = free_key(self.masks, stem, names[entry["category_id"]])
            mask = np.asarray(coco_mask.decode(entry["segmentation"]) == 1)
            self.masks[key], self.visible[key] = mask, mask & ~taken[stem]
            self.scores[key] = entry["score"]
            self.ranked[stem].append(key)
            taken[stem] |= mask


def free_key(known: dict[Key, Any], stem: str, name: str) -> Key:
    return stem, name, sum(key[:2] == (stem, name) for key in known)


def compare(truth: Masks, masks: Masks) -> dict[str, float]:
    truth = {key: mask for key, mask in truth.items() if mask.any()}
    assert truth.keys() == masks.keys(), (sorted(truth.keys() ^ masks.keys())[:4], len(truth), len(masks))
    ious = [(mask & masks[key]).sum() / (mask | masks[key]).sum() for key, mask in truth.items()]
    return {"instances": len(ious), "least": float(min(ious)), "mean": float(np.mean(ious))}


def same_scores(truth: Truth, scores: dict[Key, float]) -> bool:
    return all(abs(truth.scores[key] - score) < 1e-5 for key, score in scores.items()) and len(scores) > 0


def main(folder: Path) -> None:
    """Print what each program reads of each form."""
    truth = Truth(folder)
    readers: dict[str, dict[str, Callable[[Path, Truth], Any]]] = {
        "coco-polygons": {"datumaro": read_coco},
        "yolo-seg": {"supervision": read_yolo, "ultralytics": read_yolo_itself},
        "labelme": {"supervision": read_labelme, "labelme": read_labelme_itself},
        "voc": {"datumaro": read_voc, "supervision": read_voc_boxes},
        "labelstudio": {"label_studio": read_label_studio},
        "masks": {"opencv": read_masks},
    }
    told: dict[str, Any] = {}
    for form, programs in readers.items():
        if (folder / form).is_dir():
            told |= {f"{form} {program}": read(folder / form, truth) for program, read in programs.items()}
    print(json.dumps(told, indent=1))


def folders_with_images(root: Path, truth: Truth) -> Iterator[tuple[str, Path]]:
    """Return each folder of images: supervision does not look into folders within."""
    for inner in sorted({str(Path(stem).parent) for stem in truth.sizes}):
        yield inner, root / inner


def from_supervision(dataset: Any, root: Path, classes: list[str]) -> Masks:
    masks: Masks = {}
    for path, pixels, found in dataset:
        stem = str(Path(path).relative_to(root).with_suffix(""))
        for index in range(len(found)):
            assert found.mask[index].shape == pixels.shape[:2]
            masks[free_key(masks, stem, classes[found.class_id[index]])] = found.mask[index]
    return masks


def read_coco(folder: Path, truth: Truth) -> Any:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    masks: Masks = {}
    dataset = Dataset.import_from(str(folder), "coco")
    labels = [label.name for label in dataset.categories()[AnnotationType.label].items]
    for item in dataset:
        instances: dict[int, tuple[str, np.ndarray]] = {}
        for entry in item.annotations:
            if entry.type != AnnotationType.polygon:
                continue
            polygons = coco_mask.frPyObjects([entry.points], *item.media.size)
            mask = np.asarray(coco_mask.decode(coco_mask.merge(polygons)) == 1)
            name, whole = instances.get(entry.id, (labels[entry.label], np.zeros_like(mask)))
            instances[entry.id] = name, whole | mask
        for _, (name, mask) in sorted(instances.items()):
            masks[free_key(masks, item.id, name)] = mask
    return compare(truth.masks, masks)


def read_yolo(folder: Path, truth: Truth) -> Any:
    import supervision as sv

    masks: Masks = {}
    for inner, images in folders_with_images(folder / "images", truth):
        dataset = sv.DetectionDataset.from_yolo(str(images), str(folder / "labels" / inner), str(folder / "data.yaml"))
        assert dataset.classes == truth.classes
        masks |= from_supervision(dataset, folder / "images", dataset.classes)
    return compare(truth.masks, masks)


def read_yolo_itself(folder: Path, truth: Truth) -> Any:
    """Ultralytics' own reader and filler, if it is installed: it needs torch."""
    os.environ["YOLO_OFFLINE"] = "true"
    try:
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset, polygons2masks
    except ImportError as error:
        return {"missing": str(error)}
    data = check_det_dataset(str(folder / "data.yaml"), autodownload=False)
    assert list(data["names"].values()) == truth.classes
    masks: Masks = {}
    for labels in YOLODataset(img_path=data["train"], data=data, task="segment", augment=False).labels:
        stem = str(Path(labels["im_file"]).relative_to(folder / "images").with_suffix(""))
        size = truth.sizes[stem]
        assert tuple(labels["shape"]) == size
        for polygon, label in zip(labels["segments"], labels["cls"].reshape(-1).tolist(), strict=True):
            filled = polygons2masks(size, [(polygon * size[::-1]).reshape(-1)], color=1, downsample_ratio=1)
            masks[free_key(masks, stem, truth.classes[int(label)])] = filled[0] == 1
    return compare(truth.masks, masks)


def read_labelme(folder: Path, truth: Truth) -> Any:
    import supervision as sv

    masks: Masks = {}
    for _, images in folders_with_images(folder, truth):
        dataset = sv.DetectionDataset.from_labelme(str(images), str(images), force_masks=True)
        masks |= from_supervision(dataset, folder, dataset.classes)
    return compare(truth.masks, masks)


def read_labelme_itself(folder: Path, truth: Truth) -> Any:
    """Labelme's own reader and filler, if it is installed: it needs Qt and its libraries."""
    try:
        from labelme import LabelFile
        from labelme.utils import shape_to_mask
    except ImportError as error:
        return {"missing": str(error)}
    masks: Masks = {}
    scores: dict[Key, float] = {}
    for stem, size in truth.sizes.items():
        file = LabelFile(str(folder / f"{stem}.json"))
        groups: dict[Any, Key] = {}
        for index, shape in enumerate(file.shapes):
            group = ("alone", index) if shape["group_id"] is None else shape["group_id"]
            key = groups.setdefault(group, free_key(masks, stem, shape["label"]))
            mask = shape_to_mask(size, shape["points"], shape["shape_type"])
            masks[key] = masks.get(key, np.zeros(size, dtype=bool)) | mask
            scores[key] = shape["other_data"]["score"]
    return compare(truth.masks, masks) | {"scores": same_scores(truth, scores)}


def read_voc(folder: Path, truth: Truth) -> Any:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    masks: Masks = {}
    boxes: dict[Key, tuple[float, ...]] = {}
    scores: dict[Key, float] = {}
    sizes = []
    dataset = Dataset.import_from(str(folder), "voc", coordinate_mode="voc-one-based")
    labels = [label.name for label in dataset.categories()[AnnotationType.label].items]
    for item in dataset:
        sizes.append(item.media.data.shape[:2] == tuple(item.media.size) == truth.sizes[item.id])
        for entry in item.annotations:
            if entry.type == AnnotationType.bbox:
                key = free_key(boxes, item.id, labels[entry.label])
                boxes[key], scores[key] = tuple(entry.get_bbox()), float(entry.attributes["score"])
    instances = Dataset.import_from(str(folder), "voc_instance_segmentation")
    for item in instances:
        for entry in item.annotations:
            if entry.type == AnnotationType.mask:
                # Its number in the PNG; those that are wholly under better ones have no pixel.
                key = truth.ranked[item.id][entry.group - 1]
                assert key[1] == labels[entry.label]
                masks[key] = np.asarray(entry.image, dtype=bool)
    same_boxes = boxes.keys() == truth.masks.keys() and all(boxes[key] == box_of(truth.masks[key]) for key in boxes)
    told = compare(truth.visible, masks)
    return (
        told
        | {"images": len(sizes), "sizes_right": all(sizes), "boxes": same_boxes}
        | {"scores": same_scores(truth, scores)}
    )


def box_of(mask: np.ndarray) -> tuple[float, ...]:
    ys, xs = mask.nonzero()
    return float(xs.min()), float(ys.min()), float(np.ptp(xs)) + 1, float(np.ptp(ys)) + 1


def read_voc_boxes(folder: Path, truth: Truth) -> Any:
    import supervision as sv

    boxes: dict[Key, tuple[float, ...]] = {}
    for inner, images in folders_with_images(folder / "JPEGImages", truth):
        dataset = sv.DetectionDataset.from_pascal_voc(str(images), str(folder / "Annotations" / inner))
        for path, _, found in dataset:
            stem = str(Path(path).relative_to(folder / "JPEGImages").with_suffix(""))
            for (x1, y1, x2, y2), label in zip(found.xyxy.tolist(), np.asarray(found.class_id).tolist(), strict=True):
                boxes[free_key(boxes, stem, dataset.classes[label])] = x1, y1, x2 - x1, y2 - y1
    same = boxes.keys() == truth.masks.keys() and all(boxes[key] == box_of(truth.masks[key]) for key in boxes)
    return {"instances": len(boxes), "boxes": same}


def read_label_studio(folder: Path, truth: Truth) -> Any:
    # Where its own rule looks for local files; it is read on import.
    os.environ["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(folder)
    from label_studio_sdk._extensions.label_studio_tools.core.utils.io import get_local_path
    from label_studio_sdk.converter.brush import decode_from_annotation
    from label_studio_sdk.label_interface import LabelInterface

    tasks = json.loads((folder / "tasks.json").read_text())
    interface = LabelInterface((folder / "label_config.xml").read_text(encoding="utf-8"))
    masks: Masks = {}
    scores: dict[Key, float] = {}
    errors: list[str] = []
    for task in tasks:
        (prediction,) = task["predictions"]
        errors += interface.validate_prediction(prediction, return_errors=True)
        path = Path(get_local_path(task["data"]["image"], hostname="", access_token="", download_resources=False))
        stem = str(path.relative_to(folder / "images").with_suffix(""))
        with Image.open(path) as image:
            assert image.size[::-1] == truth.sizes[stem]
        for region in prediction["result"]:
            # As the converter lays out what the server gives it.
            flat = {**region, **region["value"]}
            (layer,) = decode_from_annotation(region["from_name"], [flat]).values()
            assert set(np.unique(layer)) <= {0, 255}
            key = free_key(masks, stem, region["value"]["brushlabels"][0])
            masks[key], scores[key] = layer == 255, region["score"]
    return compare(truth.masks, masks) | {"errors": errors, "scores": same_scores(truth, scores)}


def read_masks(folder: Path, truth: Truth) -> Any:
    import cv2
    import pandas

    masks: Masks = {}
    scores: dict[Key, float] = {}
    table = pandas.read_csv(folder / "instances.csv")
    with (folder / "instances.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(table)
    for row in table.itertuples():
        # OpenCV opens no names that are not ASCII on every system; its decoder takes any file's content.
        content = np.fromfile(folder / row.mask, dtype=np.uint8)
        mask = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) == row.id
        key = free_key(scores, str(Path(row.mask).with_suffix("")), row._4)
        scores[key] = row.score
        if mask.any():
            masks[key] = mask
    return compare(truth.visible, masks) | {"scores": same_scores(truth, scores)}


if __name__ == "__main__":
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]).absolute())
