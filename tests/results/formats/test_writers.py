"""What each form holds: masks, classes, scores and names, read back without the code that wrote them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from no_time_to_train.batch.results import found_dataset
from no_time_to_train.data.masks import decode_mask, encode_mask
from no_time_to_train.data.references import read_references
from no_time_to_train.data.references.xml_files import read_xml
from no_time_to_train.errors import OutputError
from no_time_to_train.results.formats import FormatName
from no_time_to_train.results.formats.folders import write_export
from no_time_to_train.results.formats.instances import label_map, voc_palette
from no_time_to_train.results.formats.label_studio import brush
from no_time_to_train.results.formats.masks import write_masks
from no_time_to_train.results.formats.voc import write_voc
from tests.results.found import entry, stamped

CLASSES = ["red apple", "Ärger: <2>"]
# As images are called, and as programs know them.
NAMES = {"one/a.jpg": "one/a", "one/a.png": "one/a_png", "two three/ü.png": "two three/ü", "empty.png": "empty"}
HEIGHT, WIDTH = 24, 32

Masks = dict[tuple[str, str], np.ndarray]


@pytest.fixture(scope="module")
def masks() -> Masks:
    """By image and class: with holes and many parts, overlapping."""
    rng = np.random.default_rng(3)
    pairs = [(stem, name) for stem in NAMES.values() if stem != "empty" for name in CLASSES]
    return {pair: rng.random((HEIGHT, WIDTH)) < 0.4 for pair in pairs}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, masks: Masks) -> Path:
    """A folder of each form."""
    root = tmp_path_factory.mktemp("formats")
    entries, rng = [], np.random.default_rng(0)
    for name, stem in NAMES.items():
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(1, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
        instances = []
        # The better one comes last, which no reader may rely on.
        for index in range(2 if stem != "empty" else 0):
            mask = masks[stem, CLASSES[index]]
            found = {"category": CLASSES[index], "category_id": index + 1, "bbox": [0.0, 0.0, 1.0, 1.0]}
            found |= {"score": 0.5 + index / 4, "area": int(mask.sum()), "segmentation": encode_mask(mask)}
            instances.append(found)
        entries.append({"file_name": name, "height": HEIGHT, "width": WIDTH, "instances": instances})
    dataset = found_dataset(entries, CLASSES, root / "in")
    files = stamped([root / "in" / name for name in NAMES])
    forms: list[FormatName] = ["coco-polygons", "yolo-seg", "labelme", "voc", "labelstudio", "masks"]
    for form in forms:
        write_export(root / form, form, dataset, files)
    write_export(root / "crops", "crops", dataset, files)
    return root


def seen(masks: Masks, stem: str, name: str) -> np.ndarray:
    """Return what of a mask is not under the better one, which is the second class's."""
    return masks[stem, name] & ~masks[stem, CLASSES[1]] if name == CLASSES[0] else masks[stem, name]


@pytest.mark.parametrize("form", ["coco-polygons", "yolo-seg", "labelme", "voc"])
@pytest.mark.filterwarnings("ignore:.*not read, as of another form")
def test_masks_are_read_back(written: Path, masks: Masks, form: str) -> None:
    """Polygons are filled by pycocotools, exactly; of overlapping masks Pascal VOC has the better one."""
    dataset = read_references(written / form).dataset
    read = {}
    for annotation in dataset.annotations:
        stem = Path(dataset.images_by_id[annotation.image_id].file_name).with_suffix("").as_posix()
        stem = next(known for known in NAMES.values() if stem.endswith(known))
        read[stem, dataset.categories_by_id[annotation.category_id].name] = decode_mask(annotation, HEIGHT, WIDTH)
    assert read.keys() == masks.keys()
    for (stem, name), mask in read.items():
        np.testing.assert_array_equal(mask, seen(masks, stem, name) if form == "voc" else masks[stem, name])


@pytest.mark.parametrize(
    ("form", "folder"), [("yolo-seg", "images"), ("labelme", "."), ("voc", "JPEGImages"), ("labelstudio", "images")]
)
def test_images_are_linked(written: Path, form: str, folder: str) -> None:
    for name, stem in NAMES.items():
        assert (written / form / folder / f"{stem}{Path(name).suffix}").samefile(written / "in" / name)


def test_yolo_has_an_empty_label_of_an_empty_image(written: Path) -> None:
    assert (written / "yolo-seg" / "labels" / "empty.txt").read_text() == ""
    document = yaml.safe_load((written / "yolo-seg" / "data.yaml").read_text(encoding="utf-8"))
    assert document == {"train": "images", "val": "images", "names": dict(enumerate(CLASSES))}
    rows = (written / "yolo-seg" / "labels" / "one" / "a.txt").read_text().splitlines()
    # One row for each instance, whatever parts it has; the best first.
    assert [row.split()[0] for row in rows] == ["1", "0"]
    assert all(0 <= float(value) <= 1 for row in rows for value in row.split()[1:])


def test_labelme_keeps_scores_and_groups(written: Path) -> None:
    document = json.loads((written / "labelme" / "one" / "a_png.json").read_text())
    assert document["imagePath"] == "a_png.png"
    assert {(one["label"], one["group_id"], one["score"]) for one in document["shapes"]} == {
        (CLASSES[1], 1, 0.75),
        (CLASSES[0], 2, 0.5),
    }


def test_voc_has_boxes_scores_and_colors(written: Path, masks: Masks) -> None:
    document = read_xml(written / "voc" / "Annotations" / "two three" / "ü.xml")
    assert document.findtext("filename") == "two three/ü.png"
    assert [one.findtext("name") for one in document.findall("object")] == CLASSES[::-1]
    assert [one.findtext("attributes/attribute/value") for one in document.findall("object")] == ["0.75", "0.5"]
    ys, xs = masks["two three/ü", CLASSES[1]].nonzero()
    box = [int(document.findtext(f"object/bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")]
    # Pixels count from 1.
    assert box == [xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1]
    with Image.open(written / "voc" / "SegmentationClass" / "two three" / "ü.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == voc_palette().reshape(-1).tolist()
        classes = np.asarray(image)
    for index, name in enumerate(CLASSES, start=1):
        np.testing.assert_array_equal(classes == index, seen(masks, "two three/ü", name))
    listed = (written / "voc" / "ImageSets" / "Segmentation" / "default.txt").read_text(encoding="utf-8")
    assert listed.splitlines() == list(NAMES.values())


def test_label_studio_has_an_address_and_scores(written: Path) -> None:
    tasks = json.loads((written / "labelstudio" / "tasks.json").read_text())
    assert tasks[2]["data"]["image"] == "/data/local-files/?d=images/two%20three/%C3%BC.png"
    (prediction,) = tasks[2]["predictions"]
    assert prediction["score"] == 0.625
    assert [(one["value"]["brushlabels"], one["score"]) for one in prediction["result"]] == [
        ([CLASSES[1]], 0.75),
        ([CLASSES[0]], 0.5),
    ]
    assert tasks[3]["predictions"][0]["result"] == []


@pytest.mark.parametrize("length", [1, 3, 4, 5, 64, 1024, 16384, 16385, 50000])
def test_brushes_have_runs_of_any_length(length: int) -> None:
    mask = np.zeros((1, 60000), dtype=bool)
    mask[0, 7 : 7 + length] = True
    bits = "".join(f"{byte:08b}" for byte in brush(mask))
    count, bits = int(bits[:32], 2), bits[32:]
    assert int(bits[:5], 2) + 1 == 8
    sizes, bits = [int(bits[5 + 4 * kind : 9 + 4 * kind], 2) + 1 for kind in range(4)], bits[21:]
    values: list[int] = []
    while len(values) < count:
        assert bits[0] == "1"
        size = sizes[int(bits[1:3], 2)]
        values += [int(bits[3 + size : 11 + size], 2)] * (int(bits[3 : 3 + size], 2) + 1)
        bits = bits[11 + size :]
    assert len(values) == count
    assert len(bits) < 8
    np.testing.assert_array_equal(np.reshape(values, (1, -1, 4)), np.repeat(mask[..., None] * 255, 4, axis=2))


def test_masks_have_numbers_and_a_table(written: Path, masks: Masks) -> None:
    with (written / "masks" / "instances.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [name for name in NAMES for _ in range(2) if name != "empty.png"]
    for row in rows:
        stem = NAMES[row["image"]]
        assert row["mask"] == f"{stem}.png"
        with Image.open(written / "masks" / row["mask"]) as image:
            assert image.mode == "L"
            mask = np.asarray(image) == int(row["id"])
        np.testing.assert_array_equal(mask, seen(masks, stem, row["class"]))
        assert int(row["pixels"]) == mask.sum()
        assert float(row["score"]) == {CLASSES[0]: 0.5, CLASSES[1]: 0.75}[row["class"]]
    with Image.open(written / "masks" / "empty.png") as image:
        assert not np.asarray(image).any()


def test_crops_are_cut_out(written: Path, masks: Masks) -> None:
    folders = {CLASSES[0]: "red apple", CLASSES[1]: "Ärger_ _2_"}
    for (stem, name), mask in masks.items():
        number = 1 if name == CLASSES[1] else 2
        with Image.open(written / "crops" / folders[name] / f"{stem}_{number}.png") as image:
            assert image.mode == "RGBA"
            crop = np.asarray(image)
        ys, xs = mask.nonzero()
        part = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        np.testing.assert_array_equal(crop[..., 3], mask[part] * 255)
        source = next(given for given, known in NAMES.items() if known == stem)
        with Image.open(written / "in" / source) as image:
            pixels = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(crop[..., :3], pixels[part] * mask[part][..., None])


def many(count: int) -> dict[str, object]:
    """Return an image with that many instances of a pixel."""
    one = entry("a.png", np.ones((1, count), dtype=bool))
    found = one["instances"][0]
    pixels = np.eye(count, dtype=bool)[:, None]
    return one | {"instances": [found | {"segmentation": encode_mask(mask)} for mask in pixels]}


def test_many_instances_need_16_bits(tmp_path: Path) -> None:
    for count, mode in ((255, "L"), (256, "I;16")):
        write_masks(tmp_path, found_dataset([many(count)], ["ring"], tmp_path))
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
            assert sorted(np.asarray(image).reshape(-1).tolist()) == list(range(1, count + 1))


def test_voc_says_what_it_cannot_hold(tmp_path: Path) -> None:
    write_voc(tmp_path, found_dataset([many(254)], ["ring"], tmp_path))
    with pytest.raises(OutputError, match=r"numbers for 254, got 255 instances in a\.png .*--format masks"):
        write_voc(tmp_path, found_dataset([many(255)], ["ring"], tmp_path))
    with pytest.raises(OutputError, match="got 255 classes"):
        write_voc(tmp_path, found_dataset([], [str(number) for number in range(255)], tmp_path))


def test_no_instance_is_no_number() -> None:
    assert not label_map([], 2, 3).any()
