"""Open what `ntt predict` wrote with other people's programs, and print what they read as JSON.

Runs in the environment of requirements.txt, in which no_time_to_train is not installed:

    python open_predictions.py RLE_JSON POLYGONS_JSON COCO_FOLDER IMAGES

RLE_JSON and POLYGONS_JSON hold the same instances; COCO_FOLDER is of `--format coco --polygons`. Masks of all clients
are compared with those of RLE_JSON, as pycocotools decodes them.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


def decode(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return np.asarray(coco_mask.decode(segmentation) == 1)


def fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill polygons with Pillow, eight times as large, and take what is at the pixels' centers."""
    scale = 8
    image = Image.new("1", (width * scale, height * scale))
    for polygon in polygons:
        # Of Pillow's pixels too, the coordinates are those of centers.
        ImageDraw.Draw(image).polygon([tuple(point) for point in polygon * scale - 0.5], fill=1)
    return np.asarray(image)[scale // 2 :: scale, scale // 2 :: scale]


def points_of(flat: list[float]) -> np.ndarray:
    return np.array(flat, dtype=float).reshape(-1, 2)


def compare(truth: dict[int, np.ndarray], masks: dict[int, np.ndarray]) -> dict[str, float]:
    assert truth.keys() == masks.keys(), (len(truth), len(masks))
    ious = [(mask & masks[key]).sum() / (mask | masks[key]).sum() for key, mask in truth.items()]
    return {"instances": len(ious), "least": float(min(ious)), "mean": float(np.mean(ious))}


def main(rle_json: str, polygons_json: str, folder: str, images: str) -> None:
    told: dict[str, Any] = {}
    rle, polygons = json.loads(Path(rle_json).read_text()), json.loads(Path(polygons_json).read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in rle["images"]}
    truth = {entry["id"]: decode(entry, *sizes[entry["image_id"]]) for entry in rle["annotations"]}
    names = {category["id"]: category["name"] for category in rle["categories"]}

    def each(read: Callable[[dict[str, Any], tuple[int, int]], np.ndarray]) -> dict[int, np.ndarray]:
        return {entry["id"]: read(entry, sizes[entry["image_id"]]) for entry in polygons["annotations"]}

    told["bytes"] = {"rle": Path(rle_json).stat().st_size, "polygons": Path(polygons_json).stat().st_size}
    told["holes_and_parts"] = count_holes_and_parts(truth)
    told["pycocotools"] = compare(truth, each(lambda entry, size: decode(entry, *size)))
    for path in (rle_json, polygons_json):
        COCO(path).info()
    told["pillow"] = compare(
        truth, each(lambda entry, size: fill([points_of(flat) for flat in entry["segmentation"]], *size))
    )
    told["shapely"] = read_with_shapely(truth, polygons["annotations"], sizes)
    told["supervision"] = read_with_supervision(truth, polygons_json, images, rle["annotations"])
    told["supervision_rle"] = read_with_supervision(truth, rle_json, images, rle["annotations"])
    told["sahi"] = read_with_sahi(truth, polygons_json, images, sizes)
    told["label_studio"] = read_with_label_studio(truth, polygons_json, sizes, rle, names)
    told["datumaro"] = read_with_datumaro(truth, folder)
    print(json.dumps(told, indent=1))


def count_holes_and_parts(truth: dict[int, np.ndarray]) -> dict[str, int]:
    import cv2

    holes = parts = 0
    for mask in truth.values():
        parts += cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
        holes += cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=8)[0] - 2
    return {"holes": holes, "parts": parts}


def read_with_shapely(truth: dict[int, np.ndarray], annotations: list[Any], sizes: dict[int, Any]) -> dict[str, Any]:
    import shapely

    masks, valid = {}, True
    for entry in annotations:
        geometry = shapely.MultiPolygon([shapely.Polygon(points_of(flat)) for flat in entry["segmentation"]])
        valid &= geometry.is_valid
        height, width = sizes[entry["image_id"]]
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        masks[entry["id"]] = shapely.contains_xy(geometry, x, y)
    return compare(truth, masks) | {"valid": valid}


def read_with_supervision(truth: dict[int, Any], path: str, images: str, annotations: list[Any]) -> dict[str, Any]:
    import supervision as sv

    dataset = sv.DetectionDataset.from_coco(images, path, force_masks=True)
    by_name = {Path(name).name: entry for name, _, entry in dataset}
    document = json.loads(Path(path).read_text())
    masks: dict[int, np.ndarray] = {}
    for image in document["images"]:
        ids = [entry["id"] for entry in annotations if entry["image_id"] == image["id"]]
        read: Any = by_name[Path(image["file_name"]).name].mask if ids else []
        masks |= dict(zip(ids, read, strict=True))
    return compare(truth, masks)


def read_with_sahi(truth: dict[int, Any], path: str, images: str, sizes: dict[int, Any]) -> dict[str, Any]:
    from sahi.utils.coco import Coco

    masks, identifier = {}, 0
    dataset = Coco.from_coco_dict_or_path(path, image_dir=images)
    read = [(image, entry) for image in dataset.images for entry in image.annotations]
    document = json.loads(Path(path).read_text())
    order: dict[int, list[int]] = {image["id"]: [] for image in document["images"]}
    for entry in document["annotations"]:
        order[entry["image_id"]].append(entry["id"])
    ids = [identifier for image in document["images"] for identifier in order[image["id"]]]
    geometries = {}
    for identifier, (image, entry) in zip(ids, read, strict=True):
        # What sahi writes again: whole pixels.
        masks[identifier] = decode({"segmentation": entry.segmentation}, image.height, image.width)
        geometries[identifier] = abs(entry.area / truth[identifier].sum() - 1)
    return compare(truth, masks) | {"area_off": max(geometries.values())}


def read_with_label_studio(
    truth: dict[int, Any], path: str, sizes: dict[int, Any], rle: dict[str, Any], names: dict[int, str]
) -> dict[str, Any]:
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    with tempfile.TemporaryDirectory() as folder:
        convert_coco_to_ls(path, f"{folder}/tasks.json")
        tasks = json.loads(Path(f"{folder}/tasks.json").read_text())
    document = json.loads(Path(path).read_text())
    masks: dict[int, np.ndarray] = {}
    for image, task in zip(document["images"], tasks, strict=True):
        assert task["data"]["image"].endswith(image["file_name"])
        height, width = sizes[image["id"]]
        regions = [each for each in task["annotations"][0]["result"] if each["type"] == "polygonlabels"]
        for entry in (entry for entry in document["annotations"] if entry["image_id"] == image["id"]):
            mine, regions = regions[: len(entry["segmentation"])], regions[len(entry["segmentation"]) :]
            assert {name for region in mine for name in region["value"]["polygonlabels"]} == {
                names[entry["category_id"]]
            }
            points = [np.array(region["value"]["points"]) * [width / 100, height / 100] for region in mine]
            masks[entry["id"]] = fill(points, height, width)
    return compare(truth, masks)


def read_with_datumaro(truth: dict[int, np.ndarray], folder: str) -> dict[str, Any]:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    dataset = Dataset.import_from(folder, "coco")
    masks: dict[int, np.ndarray] = {}
    shapes = []
    for item in dataset:
        pixels = item.media.data
        shapes.append(pixels.shape[:2] == tuple(item.media.size))
        for entry in item.annotations:
            height, width = item.media.size
            if entry.type == AnnotationType.polygon:
                mask = decode({"segmentation": [entry.points]}, height, width)
                masks[entry.id] = masks.get(entry.id, np.zeros_like(mask)) | mask
    return compare(truth, masks) | {"images": len(shapes), "sizes_right": all(shapes)}


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main(*sys.argv[1:])
