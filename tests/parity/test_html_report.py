"""The page of a comparison: whole in one file, true to the result, and shown by a browser."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.cli import main
from no_time_to_train.export.onnx import export_onnx
from tests.browser import dumped, needs_chromium, screenshot
from tests.golden_files import golden
from tests.parity.planted import scale_in_file


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a file with a fault, about an image with a name that HTML has to escape."""
    folder = tmp_path_factory.mktemp("report")
    wrong = export_onnx(golden("vit_mlp_untied"), output=folder / "onnx")
    scale_in_file(wrong, "layer.2.attention.o_proj.weight", 1.01)
    image = folder / "<script>alert(1)<script>.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(image)
    weights = str(golden("vit_mlp_untied"))
    given = ["--weights", weights, "--onnx", str(wrong), "--eqx", weights, "--image", str(image)]
    assert main(["compare", *given, "--image-size", "64x96", "--report", str(folder / "report")]) == 1
    return folder / "report"


def test_it_is_whole_and_true(report: Path) -> None:
    page, result = Page(report / "index.html"), json.loads((report / "parity.json").read_text())
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert "script" not in page.tags
    assert "64x96, batch 1: <script>alert(1)<script>.png" in page.text
    assert "A verdict fails." in page.text
    assert "onnx first drifts at block 2, attn_raw" in page.text
    assert result["cases"][0]["first_drift"]["stage"] == "attn_raw"
    for backend in result["backends"]:
        assert backend["fingerprint"] in page.text
    for version in result["versions"].values():
        assert version in page.text
    assert page.tags.count("tr") > 2 * 29
    pictures = sorted(path.name for path in report.glob("*.png"))
    assert pictures == [
        "64x96-batch1-0-features.png",
        "64x96-batch1-0-torch-eqx-cosine.png",
        "64x96-batch1-0-torch-eqx-stages.png",
        "64x96-batch1-0-torch-onnx-cosine.png",
        "64x96-batch1-0-torch-onnx-stages.png",
    ]
    for name in pictures:
        with Image.open(report / name) as image:
            assert min(image.size) > 200
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 20  # something is drawn


@needs_chromium
def test_a_browser_shows_it(report: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(report / "index.html", tmp_path / "alone.html"))  # needs nothing beside it
    # Pictures that the browser could decode have a width.
    script = "<script>document.title = [...document.images].map(i => i.naturalWidth).join(' ')</script>"
    with page.open("a") as stream:
        stream.write(script)
    title = dumped(page, tmp_path / "profile").split("<title>")[1].split("</title>")[0]
    widths = [int(width) for width in title.split()]
    assert len(widths) == 5
    assert all(width > 200 for width in widths)
    picture = tmp_path / "picture.png"
    screenshot(page, tmp_path / "profile", (1200, 3000), picture)
    with Image.open(picture) as image:
        assert image.size == (1200, 3000)
        assert len(set(image.convert("L").resize((120, 300)).tobytes())) > 50


def test_reports_replace_reports_alone(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compare", "--weights", str(golden("vit_mlp_untied")), str(golden("vit_mlp_untied")), "--random", "1"]
    given += ["--image-size", "64x64"]
    again = shutil.copytree(report, tmp_path / "again")
    assert main([*given, "--report", str(again)]) == 0
    assert sorted(path.name for path in again.glob("*.png")) == [
        "64x64-batch1-0-features.png",
        "64x64-batch1-0-torch-torch2-cosine.png",
        "64x64-batch1-0-torch-torch2-stages.png",
    ]
    (again / "mine.txt").write_text("mine")
    assert main([*given, "--report", str(again)]) == 2
    assert "holds no report (name a new folder)" in capsys.readouterr().err
    assert (again / "mine.txt").read_text() == "mine"
    folder = tmp_path / "a file"
    folder.write_text("mine")
    assert main([*given, "--report", str(folder)]) == 2
    assert folder.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "again"]
