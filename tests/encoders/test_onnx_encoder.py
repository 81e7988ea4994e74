"""Exported files as encoders: the same instances as torch's, and files that are none."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from no_time_to_train.encoders.onnx_encoder import OnnxEncoder
from no_time_to_train.encoders.torch_encoder import build_encoder, build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import (
    ConfigError,
    ImageSizeError,
    UnsafeWeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.matching import Instances
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.runtime.onnx_session import (
    check_runtime,
    has_room_for,
    open_session,
    open_tapped_session,
    read_onnx_file,
)
from no_time_to_train.weights import hashes
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.inspect import sha256_of
from tests.golden_files import golden
from tests.parity.planted import forget_hashes
from tests.tiny import write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
TOLERANCE = 1e-5  # fp32 noise between two backends on the golden encoders is below 4e-6


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(golden("vit_mlp"), output=tmp_path_factory.mktemp("exported") / "onnx")


@pytest.mark.parametrize("name", ["vit_mlp", "vit_swiglu", "convnext"])
def test_features_are_torchs(name: str, tmp_path: Path) -> None:
    folder = export_onnx(golden(name), output=tmp_path / "onnx")
    onnx_encoder, encoder = build_encoder(f"onnx:{folder}"), build_encoder_from_checkpoint(golden(name))
    assert isinstance(onnx_encoder, OnnxEncoder)
    assert (onnx_encoder.config, onnx_encoder.img_size) == (encoder.config, encoder.img_size)
    assert (onnx_encoder.dtype, onnx_encoder.device) == (torch.float32, torch.device("cpu"))
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        pixels = torch.randn(shape)
        with torch.inference_mode():
            ours, theirs = onnx_encoder(pixels), encoder(pixels)
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            assert not one.numel() or (one - other).abs().max() <= TOLERANCE
    with pytest.raises(ImageSizeError):
        onnx_encoder(torch.randn(1, 3, 20, 20))


def run(folder: Path, encoder: Any, **settings: Any) -> tuple[Instances, str]:
    """Take in one reference with a baseline and find its class in an image."""
    baseline = Sam2MatchingBaseline_noAMG(
        str(folder),
        encoder_cfg=encoder,
        random_init=True,
        sam2_infer_cfgs={"points_per_side": 4, "iou_thr": 0.0},
        **settings,
    )
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    image[0, 8:30, 6:28] = 220
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[8:30, 6:28] = True
    memory = baseline.start_memory(["square"])
    patches, on_grid = baseline.encode_reference(image, mask, (6.0, 8.0, 28.0, 30.0))
    memory.add_mean(0, patches[on_grid > 0].mean(dim=0))
    memory.finalize()
    return baseline.predict(image), baseline.memory_fingerprint


def test_baselines_find_the_same_instances(tmp_path: Path) -> None:
    """The same weights by torch and by ONNX, with the same random SAM2."""
    sam2 = write_config(tmp_path / "sam2")
    weights = tmp_path / "weights"
    build_torch_encoder("dinov3_small", random_init=True).model.save_pretrained(weights)
    folder = export_onnx("dinov3_small", weights)
    torch_instances, torch_print = run(sam2, {"name": "dinov3_small", "img_size": 64}, encoder_ckpt_path=weights)
    instances, fingerprint = run(sam2, {"name": f"onnx:{folder}", "img_size": 64})
    assert len(instances.scores) == len(torch_instances.scores) > 0
    assert torch.equal(instances.masks, torch_instances.masks)
    assert (instances.scores - torch_instances.scores).abs().max() <= 1e-4
    # Features differ by noise alone: a memory of the one serves the other.
    assert fingerprint == torch_print


def test_weights_named_beside_those_it_has(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has its weights beside it"):
        build_encoder(f"onnx:{exported}", golden("vit_mlp"))
    with pytest.raises(ConfigError, match="has its weights beside it"):
        run(write_config(tmp_path / "sam2"), {"name": f"onnx:{exported}"}, encoder_ckpt_path=tmp_path)
    with pytest.raises(ConfigError, match="gives float32"):
        build_encoder(f"onnx:{exported}", dtype=torch.float16)


def test_files_of_a_fixed_size_and_batch(tmp_path: Path) -> None:
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx", image_size=(64, 64), batch_size=2)
    encoder = build_encoder(f"onnx:{folder}")
    assert encoder.img_size == 64
    expected = build_encoder_from_checkpoint(golden("vit_mlp"))
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, 64, 64)
        with torch.inference_mode():
            assert (encoder(pixels).patches - expected(pixels).patches).abs().max() <= TOLERANCE
    with pytest.raises(ImageSizeError, match=r"it takes 64x64 only .*--image-size dynamic"):
        encoder(torch.randn(1, 3, 64, 96))
    with pytest.raises(ImageSizeError, match="takes images of 64x64 only, not of 128 squared"):
        build_encoder(f"onnx:{folder}", img_size=128)


def test_fingerprints_tell_files_apart(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(exported, again)
    one = build_encoder(f"onnx:{exported}").fingerprint
    assert one == build_encoder(f"onnx:{again}").fingerprint
    assert one == build_encoder_from_checkpoint(golden("vit_mlp")).fingerprint
    forget_hashes(again / "model.onnx")
    assert build_encoder(f"onnx:{again}").fingerprint.startswith("onnx-")


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "options", [{}, {"verify": False}, {"precision": "fp16"}, {"precision": "int8"}, {"copy_weights": True}], ids=str
)
def test_damaged_weights_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """One bit of the weights, below a header that is whole."""
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx", **options)
    (weights,) = read_onnx_file(folder).weights
    before = weights.read_bytes()
    build_encoder(f"onnx:{folder}")
    damage(weights)
    for opened in (open_session, open_tapped_session):
        with pytest.raises(WeightsFormatError, match=rf"{weights.name} has changed since .*export it again"):
            opened(read_onnx_file(folder))
    weights.write_bytes(before)
    build_encoder(f"onnx:{folder}")


def test_older_files_are_checked_by_their_identity(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "older")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del kept["weights_hashes"]
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, folder / "model.onnx")
    build_encoder(f"onnx:{folder}")
    damage(folder / "model.safetensors")
    with pytest.raises(WeightsFormatError, match="has changed since"):
        build_encoder(f"onnx:{folder}")
    forget_hashes(folder / "model.onnx")
    build_encoder(f"onnx:{folder}")


def test_weights_are_hashed_once(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(exported, tmp_path / "again")
    hashed: list[Path] = []

    def counting(file: Path) -> str:
        hashed.append(file)
        return sha256_of(file)

    monkeypatch.setattr(hashes, "sha256_of", counting)
    for _ in range(2):
        assert not build_encoder(f"onnx:{folder}").fingerprint.startswith("onnx-")
    assert len(hashed) == 1
    (folder / "model.safetensors").touch()
    build_encoder(f"onnx:{folder}")
    assert len(hashed) == 2


def test_copies_open_the_file_again(exported: Path) -> None:
    encoder = build_encoder(f"onnx:{exported}", img_size=64)
    pixels = torch.randn(1, 3, 64, 64)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other.img_size == 64
        assert torch.equal(other(pixels).patches, encoder(pixels).patches)
    halves = encoder(pixels.half().transpose(2, 3).transpose(2, 3))
    assert (halves.patches - encoder(pixels).patches).abs().max() < 0.1


def test_files_that_are_none(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="name a folder that ntt export wrote"):
        build_encoder(f"onnx:{tmp_path}")
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(WeightsFormatError, match="which is not there"):
        build_encoder(f"onnx:{broken}")
    (broken / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(WeightsFormatError, match="which is too short"):
        build_encoder(f"onnx:{broken}")
    for content in (b"", (exported / "model.onnx").read_bytes()[:5000], b"no protobuf"):
        (broken / "model.onnx").write_bytes(content)
        with pytest.raises(WeightsFormatError, match="export"):
            build_encoder(f"onnx:{broken}")
    # Somebody else's.
    foreign = onnx.load(exported / "model.onnx", load_external_data=False)
    del foreign.metadata_props[:]
    onnx.save(foreign, exported / "foreign.onnx")
    with pytest.raises(WeightsFormatError, match="does not tell which encoder it is"):
        build_encoder(f"onnx:{exported / 'foreign.onnx'}")
    elsewhere = onnx.load(exported / "model.onnx", load_external_data=False)
    for tensor in elsewhere.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../secret" if entry.key == "location" else entry.value
    onnx.save(elsewhere, exported / "elsewhere.onnx")
    with pytest.raises(UnsafeWeightsError, match=r"weights outside of its folder: \.\./secret"):
        build_encoder(f"onnx:{exported / 'elsewhere.onnx'}")
    unknown = onnx.load(exported / "model.onnx", load_external_data=False)
    unknown.graph.node[0].op_type = "Convolve"
    onnx.save(unknown, exported / "unknown.onnx")
    with pytest.raises(WeightsFormatError, match=r"onnxruntime .* refuses"):
        build_encoder(f"onnx:{exported / 'unknown.onnx'}")


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": ["a", 1, 2]},
        {"image_mean": [0.5]},
        {"image_std": [0, 0, 0]},
        {"image_std": 0.5},
        {"patch_size": 0},
        {"patch_size": 16.0},
        {"embed_dim": True},
        {"num_storage_tokens": -3},
        {"default_img_size": -5},
        {"name": "dino\x1b[31m"},
        {"name": 5},
    ],
)
def test_what_a_file_states_is_checked(change: dict[str, object], exported: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    stated = {entry.key: entry.value for entry in model.metadata_props}
    stated["config"] = json.dumps(json.loads(stated["config"]) | change)
    onnx.helper.set_model_props(model, stated)
    onnx.save(model, exported / "changed.onnx")
    with pytest.raises(WeightsFormatError, match="does not tell which encoder it is"):
        build_encoder(f"onnx:{exported / 'changed.onnx'}")


def test_files_of_the_first_release_name_the_bias_otherwise(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    stated = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(stated["config"])
    config["qkv_bias"] = config.pop("query_bias")
    onnx.helper.set_model_props(model, stated | {"config": json.dumps(config)})
    onnx.save(model, exported / "older.onnx")
    older = build_encoder(f"onnx:{exported / 'older.onnx'}")
    assert older.config == build_encoder(f"onnx:{exported / 'model.onnx'}").config


def test_devices_that_are_not_here(exported: Path) -> None:
    file = read_onnx_file(exported)
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        open_session(file, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="pip install onnxruntime-gpu"):
            open_session(file, device="cuda:0")
    assert open_session(file, threads=1).get_session_options().intra_op_num_threads == 1


def test_memory_is_saved_where_there_is_little(exported: Path) -> None:
    assert has_room_for(1000)
    assert not has_room_for(1 << 50)
    session = open_session(read_onnx_file(exported), save_memory=True)
    assert session.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"


def test_from_a_folder_converted_before(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp_released"), tmp_path / "hf", "hf")
    export_onnx(folder)
    pixels = torch.randn(1, 3, 48, 80)
    with torch.inference_mode():
        expected = build_encoder_from_checkpoint(golden("vit_mlp_released"))(pixels).patches
        assert (build_encoder(f"onnx:{folder}")(pixels).patches - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("precision", "opset", "needed"), [("fp16", 23, "1.25"), ("fp32", 23, "1.23"), ("fp16", 17, "1.20")]
)
def test_older_runtimes_are_refused(precision: Any, opset: int, needed: str, tmp_path: Path) -> None:
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx", precision=precision, opset=opset, verify=False)
    file = read_onnx_file(folder)
    assert (file.metadata["needs_onnxruntime"], file.metadata["opset"]) == (needed, str(opset))
    major, minor = needed.split(".")
    for fine in (f"{needed}.0", f"{major}.{int(minor) + 1}.2", "2.0.0"):
        check_runtime(file, fine)
    with pytest.raises(ConfigError, match=rf"needs ONNX Runtime {needed} or later, got 1\.9\.0.*pip install"):
        check_runtime(file, "1.9.0")


def test_what_a_file_says_of_itself_is_nested_beyond_measure(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    said = {entry.key: entry.value for entry in model.metadata_props}
    for key in ("config", "identity", "weights_hashes", "weights_headers"):
        folder = shutil.copytree(exported, tmp_path / key)
        onnx.helper.set_model_props(model, said | {key: "[" * 50_000})
        onnx.save(model, folder / "model.onnx")
        if key == "identity":
            assert build_encoder(f"onnx:{folder}").fingerprint.startswith("onnx-")
            continue
        with pytest.raises(WeightsFormatError, match="export"):
            build_encoder(f"onnx:{folder}")
