"""Equinox files and Equimo's archives: Equimo's own features, and nothing unpacked that should not be."""

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equimo.io
import jax
import jax.numpy as jnp
import lz4.frame
import numpy as np
import pytest
import torch
from equimo.models import VisionTransformer

from no_time_to_train.cli import main
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import DiskFullError, UnsafeWeightsError, WeightsFormatError
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.formats import equinox as eqx
from tests.golden_files import golden
from tests.weights.stored import read_tensors

# Two implementations in fp32, two blocks deep.
TOLERANCE = 2e-5
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "swiglu": {"ffn_layer": "swiglu", "mlp_ratio": 6.0},
    "untied": {"untie_global_and_local_cls_norm": True, "qkv_bias": False, "use_mask_token": False},
}


def make(kind: str) -> tuple[VisionTransformer, dict[str, Any]]:
    config = {
        **{"img_size": 48, "in_channels": 3, "dim": 64, "patch_size": 16, "num_heads": 2, "depths": [2]},
        **{"num_classes": 0, "use_mask_token": True, "use_global_pos_embed": False, "use_local_pos_embed": True},
        **{"reg_tokens": 4, "init_values": 0.5, "eps": 1e-5, "dynamic_img_size": True, "act_layer": "exactgelu"},
        **KINDS[kind],
    }
    return VisionTransformer(**config, key=jax.random.PRNGKey(0)), config


def archived(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write an archive with these files."""
    with lz4.frame.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with lz4.frame.open(path) as stream, tarfile.open(fileobj=stream, mode="r") as archive:
        members = {}
        for member in archive:
            inside = archive.extractfile(member)
            assert inside is not None
            members[member.name] = inside.read()
        return members


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, config = make("mlp")
    path: Path = tmp_path_factory.mktemp("equimo") / "encoder.tar.lz4"
    equimo.io.save_model(path, model, config)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [True, False])
def test_equimos_own_features(kind: str, compression: bool, tmp_path: Path) -> None:
    model, config = make(kind)
    path = tmp_path / ("encoder.tar.lz4" if compression else "encoder")
    equimo.io.save_model(path, model, config, compression=compression)
    pixels = np.random.default_rng(0).standard_normal((3, 48, 48), dtype=np.float32)
    expected = jax.vmap(model.norm)(model.features(jnp.asarray(pixels), key=jax.random.PRNGKey(0), inference=True))
    expected = np.asarray(expected)
    encoder = build_encoder_from_checkpoint(path)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(pixels)[None])
    for found in (features, load_eqx_encoder(path)(jnp.asarray(pixels))):
        cls, storage, patches = (np.asarray(part).reshape(-1, 64) for part in found)
        assert np.abs(np.concatenate([cls, storage, patches]) - expected).max() <= TOLERANCE
    report = inspect_weights(path)
    assert report.layout == "Equimo DINOv3 ViT"
    assert report.container == ("Equimo archive" if compression else "Equimo folder")
    assert report.architecture is not None
    assert (report.architecture.num_heads, report.architecture.depth) == (2, 2)
    assert report.architecture.untied_norm == (kind == "untied")


def test_archives_become_other_layouts(archive: Path, tmp_path: Path) -> None:
    folder = convert_weights(archive, tmp_path / "hf", "hf")
    converted = convert_weights(folder, tmp_path / "encoder.eqx", "equinox")
    direct = convert_weights(archive, tmp_path / "direct.eqx", "equinox")
    assert converted.read_bytes().partition(b"\n")[2] == direct.read_bytes().partition(b"\n")[2]
    with torch.inference_mode():
        pixels = torch.randn(1, 3, 32, 48)
        first, last = (build_encoder_from_checkpoint(path)(pixels) for path in (archive, direct))
    assert torch.equal(first.patches, last.patches)


@pytest.mark.parametrize("name", ["../weights.eqx", "/tmp/weights.eqx", "a/weights.eqx", "run.py"])
def test_names_that_lead_elsewhere_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    path = archived(tmp_path / "bad.tar.lz4", members_of(archive) | {name: b"x"})
    with pytest.raises(UnsafeWeightsError, match="trusted source"):
        inspect_weights(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.tar.lz4"]


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.lz4"
    with lz4.frame.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("weights.eqx")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UnsafeWeightsError, match="trusted source"):
        inspect_weights(path)


def test_bombs_are_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eqx, "_ALWAYS_ALLOWED", 1 << 20)
    path = archived(tmp_path / "bomb.tar.lz4", members_of(archive) | {"weights.eqx": bytes(1 << 24)})
    assert path.stat().st_size * 8 < 1 << 24
    with pytest.raises(UnsafeWeightsError, match="would unpack to 16,777,216 bytes"):
        inspect_weights(path)
    metadata = archived(tmp_path / "metadata.tar.lz4", {"metadata.json": b" " * (1 << 21)})
    with pytest.raises(UnsafeWeightsError, match=r"metadata\.json"):
        inspect_weights(metadata)


def test_a_disk_that_is_too_small(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.tar.lz4"
    copy.write_bytes(archive.read_bytes())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="set TMPDIR"):
        inspect_weights(copy)


def test_damaged_archives(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = members_of(archive)
    recorded = {**json.loads(members["metadata.json"]), "weights_sha256": "0"}
    damaged: dict[str, bytes] = {
        "cut": archive.read_bytes()[:-1000],
        "none": b"no archive at all",
        "no weights": archived(tmp_path / "a", {"metadata.json": members["metadata.json"]}).read_bytes(),
        "no json": archived(tmp_path / "b", members | {"metadata.json": b"{"}).read_bytes(),
        "short": archived(tmp_path / "c", members | {"weights.eqx": members["weights.eqx"][:-100]}).read_bytes(),
        "no array": archived(tmp_path / "d", members | {"weights.eqx": b"12345678" * 9}).read_bytes(),
        "recorded": archived(tmp_path / "e", members | {"metadata.json": json.dumps(recorded).encode()}).read_bytes(),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.tar.lz4"
        path.write_bytes(content)
        with pytest.raises(WeightsFormatError):
            inspect_weights(path)
        assert main(["inspect", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_other_models_of_equimo(tmp_path: Path) -> None:
    model = VisionTransformer(
        img_size=32, in_channels=3, dim=64, patch_size=16, num_heads=2, depths=[1], key=jax.random.PRNGKey(0)
    )
    equimo.io.save_model(tmp_path / "vit.tar.lz4", model, {})
    with pytest.raises(WeightsFormatError, match="not a DINOv3 ViT of Equimo's"):
        inspect_weights(tmp_path / "vit.tar.lz4")


def test_damaged_equinox_files(tmp_path: Path) -> None:
    whole = convert_weights(golden("vit_mlp_released"), tmp_path / "whole.eqx", "equinox").read_bytes()
    line, _, leaves = whole.partition(b"\n")
    header = json.loads(line)
    spoiled = {
        "cut": whole[:-100],
        "longer": whole + b"12345678901",
        "no line": leaves,
        "no json": b"{\n" + leaves,
        "list": b"[]\n" + leaves,
        "other format": json.dumps(header | {"format": "other"}).encode() + b"\n" + leaves,
        "fewer names": json.dumps(header | {"leaves": header["leaves"][:-1]}).encode() + b"\n" + leaves,
        "other names": json.dumps(header | {"leaves": ["x"] * len(header["leaves"])}).encode() + b"\n" + leaves,
        "kind": whole.replace(b"'<f4'", b"'|O8'", 1),
        "expression": whole.replace(b"'fortran_order': False", b"'fortran_order': __im", 1),
        "empty": b"",
    }
    for name, content in spoiled.items():
        path = tmp_path / f"{name}.eqx"
        path.write_bytes(content)
        with pytest.raises((WeightsFormatError, FileNotFoundError)):
            inspect_weights(path)


def test_nobody_writes_into_a_file_through_its_tensors(tmp_path: Path) -> None:
    path = convert_weights(golden("vit_mlp_released"), tmp_path / "encoder.eqx", "equinox")
    before = path.read_bytes()
    for tensor in read_tensors(path).values():
        tensor.zero_()
    assert path.read_bytes() == before


def test_headers_alone_are_read(tmp_path: Path) -> None:
    path = convert_weights(golden("vit_mlp_released"), tmp_path / "encoder.eqx", "equinox")
    whole, headers = inspect_weights(path), inspect_weights(path, headers_only=True)
    assert headers.sha256 is None
    assert headers.architecture == whole.architecture
    assert headers.num_parameters == whole.num_parameters
