"""`--encoder onnx:DIR`: the same instances as torch's, with the same memory; and folders that are no export."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from jaxtyping import Bool

from no_time_to_train import Segmenter
from no_time_to_train.cli import main
from no_time_to_train.cli.predictor import load_settings
from no_time_to_train.data.coco import Annotation
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.errors import EncoderMismatchError, WeightsFormatError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.runtime.onnx_session import read_onnx_file
from tests.golden_files import golden

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(
        "dinov3_quickstart", QUICKSTART / "encoder", output=tmp_path_factory.mktemp("exported") / "quickstart"
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run over two scenes with the shipped models, with fewer prompts than usual and at an odd size."""
    folder = tmp_path_factory.mktemp("scenes")
    shapes = write_shapes(folder / "shapes", seed=3, shots=1, num_targets=2)
    model = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": str(QUICKSTART / "sam2"),
        "sam2_infer_cfgs": {"points_per_side": 8},
        "encoder_cfg": {"name": "dinov3_quickstart", "img_size": 320},
        "encoder_ckpt_path": str(QUICKSTART / "encoder"),
        "memory_bank_cfg": {"crop_scale": 4.0},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"model_cfg": model}}}))
    targets = [image["file_name"] for image in json.loads(shapes.targets_json.read_text())["images"]]
    images = [str(shapes.image_dir / name) for name in targets]
    references = ["--references", str(shapes.references_json), "--reference-images", str(shapes.image_dir)]
    return ["--config", str(folder / "run.yaml"), "--images", *images, *references, "--min-score", "0.2"]


def predicted(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "predictions.json").read_text())["annotations"]
    return found


def mask_of(found: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
    annotation = Annotation(0, 0, 0, found["bbox"], found["area"], found["segmentation"])
    return decode_mask(annotation, *found["segmentation"]["size"])


def test_the_same_instances_as_torchs(exported: Path, given: list[str], tmp_path: Path) -> None:
    """With the YAML's size of images, which is not the encoder's own."""
    assert main(["predict", *given, "--output", str(tmp_path / "torch")]) == 0
    assert main(["predict", *given, "--output", str(tmp_path / "onnx"), "--encoder", f"onnx:{exported}"]) == 0
    theirs, ours = predicted(tmp_path / "torch"), predicted(tmp_path / "onnx")
    assert len(ours) == len(theirs) > 5
    assert len({each["category_id"] for each in ours}) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert [one[key] for key in ("image_id", "category_id")] == [other[key] for key in ("image_id", "category_id")]
        assert abs(one["score"] - other["score"]) <= 1e-3
        assert np.mean(mask_of(one) == mask_of(other)) >= 0.999


def test_a_memory_serves_both(exported: Path, tmp_path: Path) -> None:
    """Filled by one and used by the other; classes come and go without another export."""
    sam2: dict[str, Any] = {
        "sam2": str(QUICKSTART / "sam2"),
        "sam2_infer_cfgs": {"points_per_side": 4},
        "img_size": 320,
    }
    by_torch = Segmenter("dinov3_quickstart", QUICKSTART / "encoder", **sam2)
    by_onnx = Segmenter(f"onnx:{exported}", **sam2)
    assert by_torch.baseline.memory_fingerprint == by_onnx.baseline.memory_fingerprint
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image[4:28, 4:28], image[30:60, 30:60] = (250, 10, 10), (20, 20, 240)
    boxes = {"one": (4, 4, 28, 28), "two": (30, 30, 60, 60)}
    for label, (first, second) in {"one": (by_torch, by_onnx), "two": (by_onnx, by_torch)}.items():
        first.add_reference(image, box=boxes[label], label=label)
        first.save_memory(tmp_path / f"{label}.safetensors")
        second.load_memory(tmp_path / f"{label}.safetensors")
        assert second.class_names == first.class_names
        # Below are masks of no score, in any order.
        found, expected = second.predict(image, min_score=0.05), first.predict(image, min_score=0.05)
        assert len(found) > 0
        assert np.array_equal(found.masks, expected.masks)
        assert np.abs(found.scores - expected.scores).max() <= 1e-3
        assert found.names == expected.names
        assert set(found.names) <= set(second.class_names)
    assert by_torch.class_names == ("one", "two")


def test_where_the_folder_lies_does_not_count(
    exported: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(exported, tmp_path / "moved")
    for folder, kept in ((exported, ""), (moved, "2 of them from an earlier run")):
        assert main(["predict", *given, "--output", str(tmp_path / "out"), "--encoder", f"onnx:{folder}"]) == 0
        assert kept in capsys.readouterr().out


def test_only_what_is_proven_to_be_the_same_is_taken_for_it(exported: Path, tmp_path: Path) -> None:
    same = build_encoder("dinov3_quickstart", QUICKSTART / "encoder").fingerprint
    assert build_encoder(f"onnx:{exported}").fingerprint == same

    def other(name: str, **changes: str) -> str:
        folder = shutil.copytree(exported, tmp_path / name)
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        if not changes:
            # One number of the graph.
            node = next(node for node in model.graph.node if any(a.name == "epsilon" for a in node.attribute))
            next(a for a in node.attribute if a.name == "epsilon").f *= 2
        onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | changes)
        onnx.save(model, folder / "model.onnx")
        return build_encoder(f"onnx:{folder}").fingerprint

    assert other("untouched", identity=read_onnx_file(exported).metadata["identity"]) == same
    for name, changes in {"graph": {}, "said": {"precision": "fp16"}, "none": {"identity": "[]"}}.items():
        assert other(name, **changes).startswith("onnx-dinov3_quickstart-")
    unverified = export_onnx(golden("vit_mlp"), output=tmp_path / "unverified", verify=False)
    assert build_encoder(f"onnx:{unverified}").fingerprint.startswith("onnx-")


def test_a_memory_of_another_encoder_is_refused(exported: Path, tmp_path: Path) -> None:
    other = export_onnx(golden("vit_mlp"), output=tmp_path / "other")
    assert read_onnx_file(other).config.embed_dim != read_onnx_file(exported).config.embed_dim
    sam2: dict[str, Any] = {"sam2": str(QUICKSTART / "sam2"), "img_size": 64}
    segmenter = Segmenter(f"onnx:{exported}", **sam2)
    segmenter.add_reference(np.zeros((64, 64, 3), np.uint8), mask=np.ones((64, 64), bool), label="all")
    segmenter.save_memory(tmp_path / "memory.safetensors")
    with pytest.raises(EncoderMismatchError, match="the memory bank was filled with dinov3_quickstart"):
        Segmenter(f"onnx:{other}", **sam2).load_memory(tmp_path / "memory.safetensors")


def test_a_size_of_images_is_that_of_the_same_encoder_alone(exported: Path, given: list[str], tmp_path: Path) -> None:
    settings = Path(given[1])
    assert load_settings([settings], encoder=f"onnx:{exported}").encoder_cfg.img_size == 320
    assert load_settings([settings], encoder="dinov3_quickstart").encoder_cfg.img_size == 320
    assert load_settings([settings], encoder="dinov3_small").encoder_cfg.img_size is None
    fixed = export_onnx(QUICKSTART / "encoder", output=tmp_path / "fixed", image_size=(64, 64), verify=False)
    assert load_settings([settings], encoder=f"onnx:{fixed}").encoder_cfg.img_size is None


def damaged(exported: Path, folder: Path, kind: str) -> str:
    """Make a folder with one thing wrong, and return the name of the encoder in it."""
    shutil.copytree(exported, folder)
    file = folder / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    said = {entry.key: entry.value for entry in model.metadata_props}
    if kind == "no export":
        file.unlink()
    elif kind == "cut off":
        file.write_bytes(file.read_bytes()[:-1000])
    elif kind == "text":
        file.write_text("model.onnx")
    elif kind == "another width":
        narrow = said["config"].replace('"embed_dim": 128', '"embed_dim": 64')
        onnx.helper.set_model_props(model, said | {"config": narrow})
        onnx.save(model, file)
    elif kind == "one output":
        model.graph.output.pop()
        onnx.save(model, file)
    elif kind == "weights gone":
        (folder / "model.safetensors").unlink()
    return f"onnx:{folder}"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no export", r"there is no .*model\.onnx \(name a folder that ntt export wrote\)"),
        ("cut off", r"model\.onnx is not a complete ONNX file \(export it again: ntt export\)"),
        ("text", r"model\.onnx is not a complete ONNX file"),
        ("another width", r"is not a dinov3_quickstart: expected last_hidden_state and pooler_output of width 64"),
        ("one output", r"is not a dinov3_quickstart: expected last_hidden_state and pooler_output"),
        ("weights gone", r"model\.safetensors, which is not there \(keep them together, or export"),
    ],
)
def test_folders_that_are_no_export_end_in_one_line(
    exported: Path, given: list[str], tmp_path: Path, kind: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = damaged(exported, tmp_path / "damaged", kind)
    assert main(["predict", *given, "--output", str(tmp_path / "out"), "--encoder", encoder]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_what_goes_not_together_with_an_export(
    exported: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", str(tmp_path / "out"), "--encoder", f"onnx:{exported}"]
    assert main(["predict", *given, *options, "--encoder-weights", "x.pth"]) == 2
    assert "has its weights beside it" in capsys.readouterr().err
    halves = yaml.safe_load(Path(given[1]).read_text())
    halves["model"]["init_args"]["model_cfg"]["precision"] = "bf16"
    (tmp_path / "halves.yaml").write_text(yaml.safe_dump(halves))
    assert main(["predict", "--config", str(tmp_path / "halves.yaml"), *given[2:], *options]) == 2
    assert "gives float32, yet bfloat16 was asked for (set precision: fp32" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_onnxruntime_refuses_as_it_runs(exported: Path) -> None:
    with pytest.raises(WeightsFormatError, match=r"fails on pixel_values \(1, 1, 64, 64\)"):
        build_encoder(f"onnx:{exported}").tokens(torch.zeros(1, 1, 64, 64))
