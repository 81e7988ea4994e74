"""The COCO dataset of all images: what is in it, its polygons, its folder for annotation tools."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from no_time_to_train.batch.results import found_dataset, write_results
from no_time_to_train.cli import main
from no_time_to_train.data.coco import decode_mask, encode_mask, load_coco
from no_time_to_train.results.formats.folders import write_export
from tests.results.found import entry, photographs, ring_mask, stamped
from tests.tiny import TinyData

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


@pytest.fixture
def ring() -> np.ndarray:
    return ring_mask()


def test_pycocotools_reads_it_all(tmp_path: Path, ring: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(
        tmp_path / "out", found_dataset([entry("a.png", ring)], ["ring"], tmp_path / "in"), polygons=False, stale=()
    )
    dataset = COCO(str(tmp_path / "out" / "predictions.json"))
    dataset.info()
    assert "image_root: ../in" in capsys.readouterr().out
    assert dataset.dataset["licenses"] == []
    assert dataset.loadCats(1)[0]["name"] == "ring"
    assert dataset.loadAnns(1)[0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1.0, 1.0, 7.0, 7.0],
        "score": 0.5,
        "area": 43,
        "segmentation": encode_mask(ring),
        "iscrowd": 0,
    }


def test_polygons_are_the_same_masks(tmp_path: Path, ring: np.ndarray) -> None:
    write_results(tmp_path, found_dataset([entry("a.png", ring)], ["ring"], tmp_path), polygons=True, stale=())
    (annotation,) = load_coco(tmp_path / "predictions.json").annotations
    assert isinstance(annotation.segmentation, list)
    np.testing.assert_array_equal(decode_mask(annotation, *ring.shape), ring)


def test_what_belonged_to_other_results_goes(tmp_path: Path, ring: np.ndarray) -> None:
    one, other = (found_dataset([entry(name, ring)], ["ring"], tmp_path) for name in ("a.png", "b.png"))
    images = stamped(photographs(tmp_path, "a.png"))
    for dataset, stays in ((one, False), (one, True), (other, False)):
        (tmp_path / "report.html").touch()
        write_export(tmp_path / "coco", "coco", one, images)
        write_results(tmp_path, dataset, polygons=False, stale=("report.html",))
        assert (tmp_path / "report.html").exists() == (tmp_path / "coco").exists() == stays


def test_from_the_command_line(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs of two folders, into one of them; a second run takes its own folder for no input."""
    for name in ("left", "right"):
        photographs(tmp_path, f"{name}/x.png")
    arguments = ["predict", "--images", str(tmp_path / "left"), str(tmp_path / "right"), "--config", str(settings)]
    arguments += ["--references", str(data.references), "--reference-images", str(data.images), "--min-score", "0"]
    arguments += ["--output", str(tmp_path / "left"), "--no-overlays"]
    for more in ([], ["--polygons"]):
        assert main([*arguments, "--format", "coco", *more]) == 0
        assert f"for annotation tools: {tmp_path / 'left' / 'coco'}" in capsys.readouterr().out
        document = json.loads((tmp_path / "left" / "predictions.json").read_text())
        assert [image["file_name"] for image in document["images"]] == ["left/x.png", "right/x.png"]
        root = tmp_path / "left" / document["info"]["image_root"]
        assert (root / "right/x.png").samefile(tmp_path / "right/x.png")
        inside = load_coco(tmp_path / "left" / "coco" / "annotations" / "instances_default.json")
        assert inside.annotations == load_coco(tmp_path / "left" / "predictions.json").annotations
        assert {type(annotation.segmentation) for annotation in inside.annotations} == {list if more else dict}
    (tmp_path / "left" / "coco" / "mine.txt").touch()
    assert main([*arguments, "--format", "coco"]) == 2
    assert "coco holds something else" in capsys.readouterr().err
    assert main([*arguments, "--format", "vox"]) == 2
    assert '"coco", "coco-polygons"' in capsys.readouterr().err


def test_many_formats_from_the_command_line(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several, twice, with crops; what they wrote is no input, and goes when an image is looked at anew."""
    photographs(tmp_path, "x.png", "y.png")
    arguments = ["predict", str(tmp_path), "--config", str(settings), "--references", str(data.references)]
    arguments += ["--reference-images", str(data.images), "--min-score", "0", "--output", str(tmp_path)]
    arguments += ["--no-overlays"]
    asked = ["--format", "yolo-seg", "labelme", "--format", "masks", "voc", "labelstudio", "coco-polygons", "--crops"]
    names = {"yolo-seg", "labelme", "masks", "voc", "labelstudio", "coco-polygons", "crops"}
    for _ in range(2):
        assert main([*arguments, *asked]) == 0
        told = capsys.readouterr().out
        assert all(str(tmp_path / name) in told for name in names)
        assert len(json.loads((tmp_path / "predictions.json").read_text())["images"]) == 2
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {*names, "instances"}
    edited = tmp_path / "labelme" / "x.json"
    edited.write_text(edited.read_text() + " ")
    assert main([*arguments, *asked]) == 2
    assert "labelme is to be written anew, and x.json in it was added or changed" in capsys.readouterr().err
    Image.new("RGB", (10, 12), (1, 2, 3)).save(tmp_path / "y.png")
    assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"labelme", "instances"}
    assert main([*arguments, "--shard", "1/2", "--crops"]) == 2
