"""`ntt predict` on small stand-ins: what it writes, where it goes on, what it says of bad input."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from no_time_to_train.batch.image_paths import InputImage, common_folder, find_images
from no_time_to_train.batch.journal import Journal
from no_time_to_train.batch.run import _with_progress
from no_time_to_train.cli.lightning.command import main as lightning
from no_time_to_train.cli.ntt import build_app, main
from no_time_to_train.cli.predictor import load_settings
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.segmenter import FoundInstances, Segmenter
from tests.tiny import TinyData

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def targets(data: TinyData) -> list[str]:
    """Return the target images, which are in one folder with the references."""
    return [str(data.images / image["file_name"]) for image in json.loads(data.targets.read_text())["images"]]


def predict(settings: Path, data: TinyData, output: Path, *more: str | Path, images: list[str] | None = None) -> int:
    references = ["--references", str(data.references), "--reference-images", str(data.images)]
    given = ["--images", *(targets(data) if images is None else images)]
    options = ["--config", str(settings), *references, *given, "--output", str(output), "--min-score", "0"]
    return main(["predict", *options, *map(str, more)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_everything_is_written(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path) == 0
    document = read(tmp_path / "predictions.json")
    names = [Path(path).name for path in targets(data)]
    assert [image["file_name"] for image in document["images"]] == names
    assert [category["name"] for category in document["categories"]] == ["disc", "square"]
    assert {annotation["image_id"] for annotation in document["annotations"]} <= {1, 2, 3, 4}
    assert all(annotation["area"] > 0 for annotation in document["annotations"])
    for name in names:
        entry = read(tmp_path / "instances" / f"{name}.json")
        assert (entry["height"], entry["width"]) == (48, 64)
        with Image.open(tmp_path / "overlays" / f"{name}.png") as drawn:
            assert drawn.size == (64, 48)


def test_a_later_yaml_goes_over_an_earlier_one(settings: Path, tmp_path: Path) -> None:
    own = load_settings([settings])
    fast = load_settings([settings, ROOT / "pl_configs" / "presets" / "fast.yaml"])
    assert (own.precision, fast.precision) == ("fp32", "bf16")
    assert own.sam2_infer_cfgs is not None
    assert fast.sam2_infer_cfgs is not None
    assert fast.sam2_infer_cfgs.prompt_selection == "prior"
    assert fast.sam2_infer_cfgs.points_per_side == own.sam2_infer_cfgs.points_per_side
    assert fast.encoder_cfg == own.encoder_cfg
    published = load_settings([settings, ROOT / "pl_configs" / "presets" / "published.yaml"])
    assert (own.protocol, published.protocol) == ("improved", "published")
    alone = load_settings([ROOT / "pl_configs" / "presets" / "fast.yaml"], encoder="dinov3_small")
    assert (alone.precision, alone.encoder_cfg.name, alone.sam2_cfg_file) == (
        "bf16",
        "dinov3_small",
        "sam2_hiera_t.yaml",
    )


def test_options_of_several_values_may_come_again() -> None:
    given = ["--config", "a.yaml", "--images", "x", "y", "--config", "b.yaml", "--images=z", "-o", "out"]
    _, bound, _ = build_app().parse_args(["predict", *given])
    assert bound.arguments["settings"] == [Path("a.yaml"), Path("b.yaml")]
    assert bound.arguments["images"] == [Path("x"), Path("y"), Path("z")]


def test_some_of_the_classes(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path, "--class-names", "square", "--report") == 0
    document = read(tmp_path / "predictions.json")
    assert [category["name"] for category in document["categories"]] == ["square"]
    page = (tmp_path / "report.html").read_text()
    assert "square" in page
    assert "disc" not in page


def test_it_finds_what_the_main_job_finds(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path / "predicted") == 0
    arguments = ["--config", str(settings), "--data", "ReferenceTargetDataModule", *data.arguments]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path)]
    quiet += ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    arguments[3] = "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"
    assert lightning([*arguments, *quiet]) == 0
    by_image: dict[int, list[Any]] = {}
    for result in read(tmp_path / "results.json"):
        by_image.setdefault(result["image_id"], []).append((result["score"], result["segmentation"]))
    got: dict[int, list[Any]] = {}
    for annotation in read(tmp_path / "predicted" / "predictions.json")["annotations"]:
        got.setdefault(annotation["image_id"], []).append((annotation["score"], annotation["segmentation"]))
    assert list(got.values()) == list(by_image.values())


def test_what_is_done_is_not_done_again(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings, data, tmp_path) == 0
    first = (tmp_path / "predictions.json").read_text()
    assert predict(settings, data, tmp_path) == 0
    assert "4 of them from an earlier run" in capsys.readouterr().out
    assert (tmp_path / "predictions.json").read_text() == first
    # A least score is another run, and so is an image that was written since.
    assert predict(settings, data, tmp_path, "--min-score", "0.1") == 0
    assert "earlier run" not in capsys.readouterr().out


def test_a_changed_image_is_looked_at_again(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(2):
        Image.new("RGB", (64, 48), (200 * index, 90, 30)).save(images / f"{index}.png")
    assert predict(settings, data, tmp_path / "out", images=[str(images)]) == 0
    Image.new("RGB", (60, 40), (1, 2, 3)).save(images / "1.png")
    assert predict(settings, data, tmp_path / "out", images=[str(images)]) == 0
    assert "1 of them from an earlier run" in capsys.readouterr().out
    assert [image["width"] for image in read(tmp_path / "out" / "predictions.json")["images"]] == [64, 60]


def test_an_interrupted_run_goes_on(
    settings: Path, data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings, data, tmp_path / "whole") == 0
    seen: list[Any] = []

    class Interrupted(Segmenter):
        def predict(self, images: Any, **settings: Any) -> Any:
            # One image calls it again, as a list of one.
            if not isinstance(images, list):
                seen.append(images)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return super().predict(images, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("no_time_to_train.cli.predictor.Segmenter", Interrupted)
        assert predict(settings, data, tmp_path / "cut") == 130
    assert not (tmp_path / "cut" / "predictions.json").exists()
    assert len(list((tmp_path / "cut" / "instances").iterdir())) == 2
    capsys.readouterr()
    assert predict(settings, data, tmp_path / "cut") == 0
    assert "2 of them from an earlier run" in capsys.readouterr().out
    assert (tmp_path / "cut" / "predictions.json").read_text() == (tmp_path / "whole" / "predictions.json").read_text()


def test_nothing_is_of_two_runs(settings: Path, data: TinyData, tmp_path: Path) -> None:
    """Interrupted after an overlay, before its entry; what an earlier run found of it does not stand beside it."""
    assert predict(settings, data, tmp_path, "--report") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "overlays").iterdir()}
    assert any(instance["score"] < 0.9 for instance in _instances(tmp_path))

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", interrupted)
        assert predict(settings, data, tmp_path, "--min-score", "0.9") == 130
    (redrawn,) = [name for name, content in before.items() if (tmp_path / "overlays" / name).read_bytes() != content]
    assert not (tmp_path / "instances" / redrawn.replace(".png", ".json")).exists()
    assert not (tmp_path / "predictions.json").exists()
    assert not (tmp_path / "report.html").exists()
    assert predict(settings, data, tmp_path) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "overlays").iterdir()} == before
    # Nor does an overlay stay where a run that draws none has found something else.
    assert predict(settings, data, tmp_path, "--min-score", "0.9", "--no-overlays") == 0
    assert not list((tmp_path / "overlays").iterdir())


def _instances(folder: Path) -> list[dict[str, Any]]:
    return [instance for path in (folder / "instances").iterdir() for instance in read(path)["instances"]]


def test_a_damaged_entry_is_made_again(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path) == 0
    first = (tmp_path / "predictions.json").read_text()
    entries = sorted((tmp_path / "instances").iterdir())
    entries[0].write_text("{")
    entries[1].write_text("[1, 2]")
    assert predict(settings, data, tmp_path) == 0
    assert (tmp_path / "predictions.json").read_text() == first


def test_images_that_cannot_be_read_do_not_stop_the_rest(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "my images, ünïcode"
    (images / "deeper").mkdir(parents=True)
    Image.new("RGB", (64, 48), (200, 90, 30)).save(images / "deeper" / "a good one.png")
    (images / "broken.jpg").write_text("no image")
    out = tmp_path / "out"
    assert predict(settings, data, out, images=[str(images)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("left out: ") and "broken.jpg" in line]
    assert [image["file_name"] for image in read(out / "predictions.json")["images"]] == ["deeper/a good one.png"]
    assert (out / "overlays" / "deeper" / "a good one.png.png").is_file()
    assert predict(settings, data, tmp_path / "strict", "--strict", images=[str(images)]) == 2
    assert not (tmp_path / "strict" / "predictions.json").exists()


def test_corrected_predictions_that_serve_as_references_are_not_replaced(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "predictions.json"
    own.write_bytes(data.references.read_bytes())
    assert predict(settings, data, tmp_path, "--references", own) == 2
    assert "which the output would replace (name another output)" in one_error(capsys)
    assert own.read_bytes() == data.references.read_bytes()


def test_a_memory_file_serves_as_references(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path / "one") == 0
    arguments = [
        "--config",
        str(settings),
        "--data",
        "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule",
    ]
    filling = ["--model.test_mode", "fill_memory", "--out_path", str(tmp_path / "memory.safetensors")]
    root = ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    assert lightning([*arguments, *data.arguments, *filling, *root]) == 0
    options = ["--config", str(settings), "--memory", str(tmp_path / "memory.safetensors"), "--min-score", "0"]
    assert main(["predict", *options, "--images", *targets(data), "--output", str(tmp_path / "other")]) == 0
    one, other = (read(tmp_path / name / "predictions.json") for name in ("one", "other"))
    assert one == other


def test_names_are_of_the_folder_that_was_named(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/c/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [image.name for image in find_images([tmp_path])] == ["a/x.png", "b/c/y.png", "b/x.png"]
    assert [image.name for image in find_images([tmp_path / "b", tmp_path / "b" / "x.png"])] == ["c/y.png", "x.png"]
    # Of several folders, the deepest that holds all: other programs find the images by it.
    both = find_images([tmp_path / "b" / "c", tmp_path / "a", tmp_path / "b" / "x.png"])
    assert [image.name for image in both] == ["b/c/y.png", "a/x.png", "b/x.png"]
    root = common_folder([tmp_path / "b" / "c", tmp_path / "a", tmp_path / "b" / "x.png"])
    assert all((root / image.name).samefile(image.path) for image in both)
    # However they are spelled.
    (tmp_path / "link").symlink_to(tmp_path / "b" / "c")
    assert [image.name for image in find_images([tmp_path / "link" / "..", tmp_path / "a"])] == [
        "b/c/y.png",
        "b/x.png",
        "a/x.png",
    ]
    with pytest.raises(DataNotFoundError, match="nowhere"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="no images in"):
        find_images([tmp_path / "empty"])


@pytest.mark.parametrize("inside", [".", "found"])
def test_results_among_the_images_are_not_looked_at(
    settings: Path, data: TinyData, tmp_path: Path, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "photos"
    (images / "overlays").mkdir(parents=True)
    for name in ("a.png", "b.png") if inside == "." else ("a.png", "overlays/b.png"):
        Image.new("RGB", (64, 48), (200, 90, 30)).save(images / name)
    for _ in range(2):
        assert predict(settings, data, images / inside, images=[str(images)]) == 0
    assert "2 images, 2 of them from an earlier run" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_alone(terminal: bool) -> None:
    shown = io.StringIO()
    images = [InputImage(Path(f"{name}.png"), f"{name}.png") for name in "abc"]
    assert list(_with_progress(images, Console(file=shown, force_terminal=terminal, width=80))) == images
    assert ("3/3" in shown.getvalue()) == terminal
    assert (shown.getvalue() == "") != terminal


def test_what_an_earlier_run_drew_is_not_looked_at(tmp_path: Path) -> None:
    """A folder of photographs may be the output's too, or hold it."""
    for name in ("x.png", "overlays/x.png.png", "found/overlays/a/x.png.png", "other/overlays/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    mine = ["found/overlays/a/x.png.png", "other/overlays/y.png", "x.png"]
    assert [image.name for image in find_images([tmp_path], but=tmp_path / "overlays")] == mine
    named = find_images([tmp_path / "found" / ".."], but=tmp_path / "found" / "overlays")
    assert [image.name for image in named] == ["other/overlays/y.png", "overlays/x.png.png", "x.png"]
    with pytest.raises(DataNotFoundError, match="no images in"):
        find_images([tmp_path / "found"], but=tmp_path / "found" / "overlays")


def test_photographs_of_a_kind_that_cannot_be_read_are_named(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "telephone"
    images.mkdir()
    Image.new("RGB", (64, 48), (200, 90, 30)).save(images / "one.png")
    (images / "IMG_0002.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (images / "notes.txt").write_text("no image, and not taken for one")
    assert predict(settings, data, tmp_path / "out", images=[str(images)]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: "))
    assert "telephone/IMG_0002.HEIC is not an image that Pillow can read" in line
    assert line.count("IMG_0002.HEIC") == 1


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "no.safetensors"], "references, or a memory of them"),
        (["--min-score", "2"], "min_score is 2.0"),
        (["--device", "abacus"], "device abacus"),
        (["--config", "nowhere.yaml"], "no file nowhere.yaml"),
        (["--references", "nowhere.json"], "nowhere.json"),
        (["--reference-images", "nowhere"], "nowhere"),
        (["--negative-references", "nowhere.json"], "nowhere.json"),
        (["--encoder", "dinov3_Smal"], "did you mean dinov3_small"),
        (["--sam2", "sam2_hiera_xl.yaml"], "sam2_hiera_"),
        (["--encoder-weights", "nowhere.pth"], "no weights at nowhere.pth"),
        (["--colour", "red"], "colour"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    settings: Path,
    data: TinyData,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(settings, data, tmp_path / "out", *options) == 2
    assert message in one_error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_yaml_without_a_model_is_refused(data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (("a: 1", "no model.init_args.model_cfg"), ("a: [", "is not valid YAML")):
        (tmp_path / "other.yaml").write_text(text)
        assert predict(tmp_path / "other.yaml", data, tmp_path / "out") == 2
        assert message in one_error(capsys)


def test_all_images_unreadable(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    assert predict(settings, data, tmp_path / "out", images=[str(tmp_path / "broken.jpg")]) == 2
    assert "none of 1 images could be read" in one_error(capsys)


def test_the_order_of_writing_keeps_the_journal_true(
    settings: Path, data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is written after its overlay: if drawing fails, the image is not done."""

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(FoundInstances, "draw", failing)
    assert predict(settings, data, tmp_path) == 2
    assert not list(tmp_path.rglob("*.json"))
    assert not list((tmp_path / "overlays").iterdir())


def test_more_points_are_asked_at(settings: Path) -> None:
    grid = load_settings([settings], points_per_side=7).sam2_infer_cfgs
    assert grid is not None
    assert grid.points_per_side == 7
    with pytest.raises(ConfigError, match="points_per_side"):
        load_settings([settings], points_per_side=0)
