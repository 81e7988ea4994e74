"""SAM2 as two ONNX files: the masks of torch for any prompts, bound to the weights where they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from transformers import Sam2Model

from no_time_to_train.cli import main
from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.errors import ConfigError, ExportError, OutputError
from no_time_to_train.export import export_onnx
from no_time_to_train.export.verify import Drift, check_drift, natural_noise
from no_time_to_train.jax_models.sam2.load import read_sam2_source
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2
from no_time_to_train.runtime.onnx_session import read_onnx_file
from tests.jax_models.sam2.random_models import random_torch_model
from tests.proposers.sam2_oracle import SCRIPT_WARNING, save_meta, tiny_meta
from tests.tiny import config_settings, write_config

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart" / "sam2"
IMAGES, PROMPTS = "vision_encoder.onnx", "prompt_encoder_mask_decoder.onnx"
EMBEDDINGS = [f"image_embeddings.{level}" for level in range(3)]
# In units of the largest number; fp32 noise between two backends is below 2e-6.
TOLERANCE = 1e-5


class Exported:
    """Both files of a folder, asked as transformers.js asks them."""

    def __init__(self, folder: Path) -> None:
        self._images = onnxruntime.InferenceSession(folder / IMAGES)
        self._prompts = onnxruntime.InferenceSession(folder / PROMPTS)

    def embed(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(EMBEDDINGS, self._images.run(EMBEDDINGS, {"pixel_values": pixels}), strict=True))

    def decode(
        self,
        embeddings: dict[str, np.ndarray],
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        if points is None or labels is None:
            assert boxes is not None
            points, labels = np.zeros((1, 1, 0, 2), np.float32), np.full((1, boxes.shape[1], 0), -1, np.int64)
        if boxes is None:
            boxes = np.zeros((1, 0, 4), np.float32)
        given = {"input_points": points, "input_labels": labels, "input_boxes": boxes}
        found: list[np.ndarray] = self._prompts.run(
            ["iou_scores", "pred_masks", "object_score_logits"], {**embeddings, **given}
        )
        return found


def pixels_of(side: int, count: int = 1) -> np.ndarray:
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (natural_noise((count, 3, side, side), seed=3) - mean) / std


def prompts_of(side: int, count: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(count + points)
    places = random.uniform(0, side, (1, count, points, 2)).astype(np.float32)
    corners = np.sort(random.uniform(0, side, (1, count, 2, 2)), axis=2).astype(np.float32)
    return places, random.choice([1, 0, -10], (1, count, points)).astype(np.int64), corners.reshape(1, count, 4)


def close(found: np.ndarray, expected: torch.Tensor) -> bool:
    wanted = expected.numpy()
    return found.shape == wanted.shape and float(np.abs(found - wanted).max() / np.abs(wanted).max()) <= TOLERANCE


@pytest.fixture(scope="module", params=[23, 17])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam2") / "onnx"
    assert export_onnx(QUICKSTART, output=folder, opset=request.param) == folder
    return folder


def test_masks_are_those_of_torch_for_any_prompts(exported: Path) -> None:
    model = build_sam2(QUICKSTART).model
    files, side = Exported(exported), 192
    pixels = pixels_of(side, 2)
    embeddings = files.embed(pixels)
    with torch.no_grad():
        expected: Any = model.get_image_embeddings(torch.from_numpy(pixels))
    assert all(close(embeddings[name], level) for name, level in zip(EMBEDDINGS, expected, strict=True))
    one = {name: value[:1] for name, value in embeddings.items()}
    for count, points, boxed in ((1, 1, False), (5, 3, False), (4, 0, True), (3, 2, True)):
        places, labels, boxes = prompts_of(side, count, points)
        given: dict[str, np.ndarray] = {"boxes": boxes} if boxed else {}
        given |= {"points": places, "labels": labels} if points else {}
        found = files.decode(one, **given)
        with torch.no_grad():
            wanted = model(
                image_embeddings=[level[:1] for level in expected],
                **{f"input_{name}": torch.from_numpy(value) for name, value in given.items()},
            )
        for name, got in zip(("iou_scores", "pred_masks", "object_score_logits"), found, strict=True):
            assert close(got, wanted[name]), (name, count, points, boxed)


def test_windows_that_do_not_fill_the_image(tmp_path: Path) -> None:
    """As in all released models: windows of 6 tokens on 8 x 8 ones."""
    settings = config_settings()
    settings["vision_config"]["backbone_config"] |= {"window_size_per_stage": [8, 4, 6, 3]}
    write_config(tmp_path / "sam2", settings)
    model: Any = random_torch_model(resolve_sam2_config(tmp_path / "sam2"))
    model.save_pretrained(tmp_path / "sam2")
    folder = export_onnx(tmp_path / "sam2", output=tmp_path / "onnx", verify=False)  # torch is compared with below
    pixels = pixels_of(128, 2)
    found = Exported(folder).embed(pixels)
    expected = model.get_image_embeddings(torch.from_numpy(pixels))
    assert all(close(found[name], level) for name, level in zip(EMBEDDINGS, expected, strict=True))


def test_files_are_plain_and_small(exported: Path) -> None:
    for name in (IMAGES, PROMPTS):
        onnx.checker.check_model(exported / name, full_check=True)
        model = onnx.load(exported / name, load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}
        used = {value for node in model.graph.node for value in node.input}
        assert used >= {tensor.name for tensor in model.graph.initializer}, "onnxruntime warns of unused ones"
        assert (exported / name).stat().st_size < 200_000
        assert read_onnx_file(exported / name).metadata["family"] == "sam2"
    opened: Any = Sam2Model.from_pretrained(exported)
    assert opened.config.vision_config.num_feature_levels == 3


def test_weights_are_bound_where_they_are(exported: Path) -> None:
    """The weights are a copy of the original's file, and the graphs point at the very bytes of its tensors."""
    stored = (exported / "model.safetensors").read_bytes()
    assert stored == (QUICKSTART / "model.safetensors").read_bytes()
    source, bound = read_sam2_source(QUICKSTART), set()
    for name in (IMAGES, PROMPTS):
        for tensor in onnx.load(exported / name, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                assert place["location"] == "model.safetensors"
                start = int(place["offset"])
                content = source.leaves[tensor.name].array().tobytes()
                assert stored[start : start + int(place["length"])] == content
                bound.add(tensor.name)
    # Of the single mask, which is not drawn; and what softmax does not see: the same for all positions.
    single = {name for name in source.leaves if "output_hypernetworks_mlps.0." in name}
    same = {name for name in source.leaves if name.endswith("_token_to_image.k_proj.bias")}
    assert source.leaves.keys() - bound == single | same


def test_the_weights_own_folder_takes_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "sam2"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("*.onnx"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert export_onnx(folder, verify=False) == folder
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {IMAGES, PROMPTS}
    assert {name: after[name] for name in before} == before
    export_onnx(folder, verify=False)  # again
    (folder / IMAGES).write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="is not of ntt export"):
        export_onnx(folder, verify=False)


@pytest.mark.filterwarnings(SCRIPT_WARNING)
def test_metas_file_becomes_a_folder_of_transformers(tmp_path: Path) -> None:
    weights = save_meta(write_config(tmp_path / "meta"))
    folder = export_onnx(weights, output=tmp_path / "onnx")
    stored = load_file(folder / "model.safetensors")
    expected = tiny_meta("2.1").state_dict()["sam_mask_decoder.iou_token.weight"]
    assert np.array_equal(stored["mask_decoder.iou_token.weight"], expected)
    model = Sam2Predictor(build_sam2(tmp_path / "meta", weights).model)
    opened = Sam2Model.from_pretrained(folder)
    assert all(torch.equal(opened.state_dict()[name], value) for name, value in model.model.state_dict().items())
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": 128, "width": 128}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_image_encoders(precision: Any, tmp_path: Path) -> None:
    folder = export_onnx(QUICKSTART, output=tmp_path / "onnx", precision=precision)
    assert not (folder / "model.safetensors").exists()
    said = {name: read_onnx_file(folder / name).metadata for name in (IMAGES, PROMPTS)}
    assert [metadata["precision"] for metadata in said.values()] == [precision, "fp32"]
    drift = json.loads(said[IMAGES]["verified"])
    assert drift["least_token_cosine"] > {"fp16": 0.9999, "int8": 0.99}[precision]
    full = sum(tensor.num_bytes for tensor in read_sam2_source(QUICKSTART).leaves.values())
    assert read_onnx_file(folder / IMAGES).num_bytes < full
    assert Exported(folder).embed(pixels_of(192))[EMBEDDINGS[2]].shape == (1, 128, 12, 12)


def test_copied_weights_are_float32_without_casts(tmp_path: Path) -> None:
    folder = export_onnx(QUICKSTART, output=tmp_path / "onnx", copy_weights=True, batch_size=1, verify=False)
    held = {path.name for path in folder.iterdir()}
    assert {f"{IMAGES}_data", f"{PROMPTS}_data"} <= held
    assert not any(name.endswith(".safetensors") for name in held)
    for name in (IMAGES, PROMPTS):
        assert not read_onnx_file(folder / name).casts_weights
    assert onnxruntime.InferenceSession(folder / IMAGES).get_inputs()[0].shape == [1, 3, 192, 192]
    export_onnx(QUICKSTART, output=folder, verify=False)  # what an export made is replaced
    assert not (folder / f"{IMAGES}_data").exists()


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a SAM2 of 192 pixels does not take images of \(224, 224\)"):
        export_onnx(QUICKSTART, output=tmp_path / "onnx", image_size=(224, 224))
    assert not (tmp_path / "onnx").exists()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="is not an export that could be made again"):
        export_onnx(QUICKSTART, output=tmp_path, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_that_drifts_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drifted(*args: Any) -> Drift:
        return Drift(1e-3, 1.0, 1.0, ())

    with pytest.raises(ExportError, match="drifts from the Equinox model"):
        check_drift(drifted(), "fp32")
    monkeypatch.setattr("no_time_to_train.export.sam2.files.measure_prompt_drift", drifted)
    with pytest.raises(ExportError, match="drifts from the Equinox model"):
        export_onnx(QUICKSTART, output=tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "sam2_hiera_tiny", "--weights", str(QUICKSTART), "--output", str(tmp_path / "onnx")]
    assert main([*arguments]) == 2
    assert "a Hiera of width 32" in capsys.readouterr().err
    for name, says in (
        ("sam2_tiny", "did you mean sam2_hiera_tiny?"),
        ("dinov3_small", "no SAM2 is named 'dinov3_small' (leave the name out"),
    ):
        assert main(["export", name, *arguments[2:]]) == 2
        assert says in capsys.readouterr().err
    assert main(["export", "sam2_tiny"]) == 2
    assert (
        "'sam2_tiny' is neither a file nor a released SAM2 (did you mean sam2_hiera_tiny?)" in capsys.readouterr().err
    )
    arguments = ["export", str(QUICKSTART), "--output", str(tmp_path / "onnx"), "--no-verify"]
    assert main([*arguments]) == 0
    said = capsys.readouterr().out
    assert f"{IMAGES}: " in said
    assert f"{PROMPTS}: " in said
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(file["path"]).name for file in told] == [IMAGES, PROMPTS]
    assert resolve_sam2_config(tmp_path / "onnx").vision_config is not None
