"""`ntt references check`, `ntt references convert`, `ntt memory show`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.cli import main
from no_time_to_train.data.synthetic.dataset import ShapesPaths, write_shapes
from no_time_to_train.matching import MemoryBank


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes(tmp_path_factory.mktemp("shapes"), size=96, shots=2, num_targets=2)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder by class: a close crop, and one with a mask beside it."""
    random = np.random.default_rng(0)
    for name in ("apple", "pear"):
        (tmp_path / "refs" / name).mkdir(parents=True)
        for index in range(2):
            pixels = random.integers(0, 255, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "refs" / name / f"{index}.jpg")
        mask = np.zeros((64, 80), np.uint8)
        mask[20:50, 20:60] = 255
        Image.fromarray(mask).save(tmp_path / "refs" / name / "1.png")
    return tmp_path / "refs"


def test_a_sheet_and_what_is_doubtful(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["references", "check", str(folders), "-o", str(sheet)]) in (0, 1)
    said = capsys.readouterr().out
    assert "4 references of 2 classes" in said
    assert "2 masks were not drawn, and references were not compared" in said
    with Image.open(sheet) as image:
        assert image.width > 100


def test_with_models_masks_are_drawn(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "refs.json"
    assert main(["references", "convert", str(folders), "-o", str(output), "--bundle", "quickstart"]) == 0
    assert "4 references of 2 classes" in capsys.readouterr().out
    document = json.loads(output.read_text())
    assert all(annotation["segmentation"] for annotation in document["annotations"])
    # It needs no folder of images, and no model anymore.
    assert main(["references", "check", str(output), "-o", str(tmp_path / "again.png")]) in (0, 1)
    assert "masks were not drawn" not in capsys.readouterr().out


def test_references_that_would_be_replaced_are_refused(shapes: ShapesPaths, capsys: pytest.CaptureFixture[str]) -> None:
    before = shapes.references_json.read_bytes()
    given = [str(shapes.references_json), "--images", str(shapes.image_dir), "-o", str(shapes.references_json)]
    for command in ("convert", "check"):
        assert main(["references", command, *given]) == 2
        assert "replace" in capsys.readouterr().err
    assert shapes.references_json.read_bytes() == before


def test_a_command_of_two_words_has_help_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["references", "--help"]) == 0
    assert "convert" in capsys.readouterr().out
    assert main(["references", "chek", "x"]) == 2
    assert "ntt references has no command chek (did you mean check?" in capsys.readouterr().err


def test_what_a_memory_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = MemoryBank(["boat", "buoy"], 4, "encoder-1", encoder_name="dinov3_small", image_size=592)
    for index, negative in ((0, False), (0, True), (1, False)):
        memory.add_mean(index, np.ones(4, np.float32), negative=negative)
    memory.save(tmp_path / "memory.safetensors")
    assert main(["memory", "show", str(tmp_path / "memory.safetensors")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "filled with dinov3_small at 592" in said[0]
    assert said[1:] == ["boat: 1 references, 1 negative", "buoy: 1 references"]
    assert main(["memory", "show", str(tmp_path / "memory.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"][1] == {"name": "buoy", "references": 1, "negatives": 0}


def test_predict_takes_a_folder_by_class_and_typed_references(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folders / "apple" / "0.jpg"
    shared = [str(image), "-c", "quickstart", "-o", str(tmp_path / "found"), "--no-overlays"]
    assert main(["predict", *shared, "-r", str(folders)]) == 0
    assert main(["predict", *shared, "-r", f"{image}:apple@10,10,40,40", f"{image}:pear@60,40"]) == 0
    document = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["apple", "pear"]
    capsys.readouterr()
    assert main(["predict", *shared, "-r", "nowhere"]) == 2
    assert "there are no references 'nowhere'" in capsys.readouterr().err
